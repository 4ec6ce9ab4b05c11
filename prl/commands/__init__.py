"""The small commands beside LightningCLI's verbs: one file each."""

from collections.abc import Callable


def _quickstart(args: list[str]) -> None:
    from prl.commands import quickstart

    quickstart.main(args)


def _convert(args: list[str]) -> None:
    from prl.commands import convert

    convert.main(args)


def _data(args: list[str]) -> None:
    from prl.commands import data

    data.main(args)


def _env(args: list[str]) -> None:
    from prl.commands import env

    env.main(args)


def _export(args: list[str]) -> None:
    from prl.commands import export

    export.main(args)


def _judge(args: list[str]) -> None:
    from prl.commands import judge

    judge.main(args)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "quickstart": _quickstart,
    "data": _data,
    "judge": _judge,
    "export": _export,
    "convert": _convert,
    "env": _env,
}
"""Name on the command line -> what runs; imported when called."""
