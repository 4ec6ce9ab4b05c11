"""`prl`, which is also `python -m prl`."""

import sys


def main() -> None:
    """`prl env` on its own, since it has to answer also where the rest does not import; all else is prl.cli's."""
    if sys.argv[1:2] == ["env"]:
        from prl.commands import COMMANDS

        COMMANDS["env"](sys.argv[2:])
    else:
        from prl.cli import main as run

        run()


if __name__ == "__main__":
    main()
