"""`prl`, which is also `python -m prl`."""

import sys

from prl.system import terminal


def main() -> None:
    """The command line; Ctrl-C, a full disk and output that nobody reads end it without a traceback."""
    try:
        with terminal.guarded():
            _run()
    except OSError as error:
        if error.errno not in terminal.FULL:
            raise
        sys.stderr.write(f"prl: OSError: {error.strerror}: {error.filename}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):  # Lightning makes an exit with 1 of it
            raise SystemExit(130) from None
        raise


def _run() -> None:
    """`prl env` on its own, since it has to answer also where the rest does not import; all else is prl.cli.app's."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from prl import __version__

        sys.stdout.write(f"prl {__version__}\n")
    elif sys.argv[1:2] == ["env"]:
        from prl.cli.commands import COMMANDS

        COMMANDS["env"](sys.argv[2:])
    else:
        from prl.cli.app import main as run

        run()


if __name__ == "__main__":
    main()
