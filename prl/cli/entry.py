"""Entry point of `prl`: print the help, run a small command, or pass the arguments to LightningCLI.

Nothing slow is imported before it is known to be needed.
"""

import gc
import os
import sys
import threading

from prl import __version__
from prl.cli.commands import COMMANDS
from prl.cli.errors import mistake_behind, told_by_thread
from prl.cli.help import VERBS, screen
from prl.cli.places import with_shipped_configs
from prl.system.terminal import CAUSED_BY


def main(args: list[str] | None = None) -> None:
    """Run `prl`: a command of prl, or a LightningCLI subcommand.

    The user's mistakes end with one message: with code 3 when the gate refuses a judge, 2 for a wrong command line,
    else 1.
    """
    arguments = sys.argv[1:] if args is None else args
    # OpenMP reads it when torch is imported. Threads that count while they wait make a step many times slower where
    # another program takes a core (docs/performance.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    threading.excepthook = told_by_thread
    try:
        _run(arguments)
    except Exception as error:
        if isinstance(error, OSError) and error.filename in ("<stdout>", "<stderr>"):
            raise  # output that cannot be written, which `prl.__main__` tells
        if (follows := getattr(error, CAUSED_BY, None)) is not None and not os.environ.get("PRL_DEBUG"):
            sys.stderr.write(f"prl: {follows}\n")
            raise SystemExit(1) from None
        told = mistake_behind(error, arguments)
        if told is None or os.environ.get("PRL_DEBUG"):
            raise
        sys.stderr.write(f"prl: {type(told).__name__}: {told}\n")
        raise SystemExit(getattr(told, "exit_code", 1)) from None


def _run(arguments: list[str]) -> None:
    arguments = with_shipped_configs(arguments)
    first = arguments[0] if arguments else ""
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"prl {__version__}\n")
    elif first in ("-h", "--help"):
        sys.stdout.write(screen())
    elif not first:
        sys.stderr.write(screen())
        raise SystemExit(2)
    elif first in COMMANDS:
        COMMANDS[first](arguments[1:])
    elif first in VERBS or first.startswith("-"):
        gc.disable()  # next to nothing that imports make is garbage
        from prl.cli.app import run_stage

        gc.enable()
        run_stage(arguments)
    else:
        sys.stderr.write(f"error: there is no command {first!r}; `prl --help` lists them\n")
        raise SystemExit(2)
