"""`cascade` = `python -m cascade`."""

import sys
from pathlib import Path


def main() -> int:
    """Run the command line and return its exit code."""
    from cascade.commands.command_line import main

    return main()


def _leave_working_folder() -> None:
    # `python -m` looks for modules in the working folder first, where a user may keep a `conf` or `stages` of his own.
    here, home = Path.cwd(), Path(__file__).resolve().parent.parent
    if sys.path and Path(sys.path[0] or ".").resolve() == here and here != home:
        del sys.path[0]


if __name__ == "__main__":
    _leave_working_folder()
    sys.exit(main())
