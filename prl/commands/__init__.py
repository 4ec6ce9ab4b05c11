"""The small commands beside LightningCLI's verbs: one file each."""

from collections.abc import Callable
from importlib import import_module


def _command(name: str) -> Callable[[list[str]], None]:
    return lambda args: import_module(f"prl.commands.{name}").main(args)


COMMANDS = {name: _command(name) for name in ("quickstart", "data", "judge", "frontier", "export", "convert", "env")}
"""Name on the command line -> what runs; imported when called."""
