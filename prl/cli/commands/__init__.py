"""The small commands beside LightningCLI's verbs: one file each.

The top of such a file imports nothing slow, so that `--help` and mistakes are answered at once. Slow imports stand
where they are used.
"""

from collections.abc import Callable
from importlib import import_module


def _command(name: str) -> Callable[[list[str]], None]:
    return lambda args: import_module(f"prl.cli.commands.{name}").main(args)


NAMES = (
    "quickstart",
    "data",
    "judge",
    "verdicts",
    "arena",
    "anchors",
    "pairs",
    "corrupt",
    "strength",
    "referee",
    "rounds",
    "control",
    "icpl",
    "resume",
    "frontier",
    "export",
    "estimate",
    "convert",
    "env",
)
COMMANDS = {name: _command(name) for name in NAMES}
"""Name on the command line -> function to run, imported when called."""
