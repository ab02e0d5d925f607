"""`python -m discovery`: look at the registry and write to it, from a shell.

What it does stands in docs/discovery.md, and how in `discovery.cli`.
"""

import sys

from discovery.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
