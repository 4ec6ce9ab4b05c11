"""The small commands beside LightningCLI's verbs: one file each.

The top of such a file imports nothing slow: `--help` and mistakes are answered at once. What takes its time is imported
where it is used.
"""

from collections.abc import Callable
from importlib import import_module


def _command(name: str) -> Callable[[list[str]], None]:
    return lambda args: import_module(f"prl.cli.commands.{name}").main(args)


NAMES = ("quickstart", "data", "judge", "anchors", "resume", "frontier", "export", "estimate", "convert", "env")
COMMANDS = {name: _command(name) for name in NAMES}
"""Name on the command line -> what runs; imported when called."""
