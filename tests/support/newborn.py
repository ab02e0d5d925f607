"""`python -m tests.support.newborn exit CODE`, or `stay`: what tests of the nursery have borne."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Says what it has been given."""
    files = sorted(int(each.name) for each in Path("/dev/fd").iterdir())
    # The last one is the directory.
    sys.stdout.write(f"{__name__} {' '.join(sys.argv[1:])}\n{dict(os.environ)}\n{files[:-1]}\n")
    sys.stdout.flush()
    if sys.argv[1] == "stay":
        signal.pause()
    sys.exit(int(sys.argv[2]))


if __name__ == "__main__":
    main()
