"""The door to the launcher: finds the interpreter that has what the mesh needs.

Written for Python 3.6, as `bootstrap.py` is, because it may be opened by any `python3`.
"""

import os
import sys
from pathlib import Path

VENV = Path(__file__).resolve().parents[2] / ".venv"


def enter_venv() -> None:
    """Goes on in `.venv` when this is another Python; raises SystemExit when neither will do."""
    if Path(sys.prefix).resolve() == VENV:
        return
    python = VENV / "bin" / "python"
    if python.exists():
        os.execv(str(python), [str(python), "-m", "services.launcher", *sys.argv[1:]])  # noqa: S606
    from importlib.util import find_spec

    if sys.version_info < (3, 11) or find_spec("grpc_health") is None or find_spec("rich") is None:
        raise SystemExit("tallystick: nothing is set up here yet: run `make up`")


if __name__ == "__main__":
    enter_venv()
    from services.launcher.cli import main

    sys.exit(main())
