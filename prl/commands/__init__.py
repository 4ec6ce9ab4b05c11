"""The small commands beside LightningCLI's verbs: one file each."""

from collections.abc import Callable


def _quickstart(args: list[str]) -> None:
    from prl.commands import quickstart

    quickstart.main(args)


def _convert(args: list[str]) -> None:
    from prl.commands import convert

    convert.main(args)


COMMANDS: dict[str, Callable[[list[str]], None]] = {"quickstart": _quickstart, "convert": _convert}
"""Name on the command line -> what runs; imported when called."""
