"""Entry point of `prl` and `python -m prl`."""

import sys

from prl.cli.entry import main as run
from prl.system import terminal


def main() -> None:
    """Run the command line; Ctrl-C, a full disk and a closed output end it without a traceback."""
    try:
        with terminal.guarded():
            run()
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


if __name__ == "__main__":
    main()
