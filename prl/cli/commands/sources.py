"""Options that name a source of rows, shared by every command that reads data, and errors that speak of them."""

import argparse
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_COLUMNS = re.compile(r"columns: \{(.*?)\}")
_SETTING = "`data.init_args.on_invalid: skip`"
_SKIP = f", or set {_SETTING} to leave them out and list them in the report"


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add --split, --name and --columns, with their meaning in a config's `train`."""
    parser.add_argument("--split", help="of a hub data set")
    parser.add_argument("--name", help="subset (configuration) of a hub data set")
    parser.add_argument(
        "--columns",
        nargs="+",
        default={},
        action=_Columns,
        metavar="NAME=COLUMN",
        help="prl's name=the file's; NAME= leaves one unread",
    )


@contextmanager
def errors_in_options(can_skip: bool = True) -> Iterator[None]:
    """Word the settings in an error of the data as options of the command line.

    Args:
        can_skip: whether the command has --on_invalid.

    Raises:
        DataError: the one raised inside, in other words.
    """
    from prl.data.rows.row_errors import DataError

    try:
        yield
    except DataError as error:
        text = _COLUMNS.sub(lambda found: f"--columns {_as_options(found[1])}", str(error))
        text = text.replace(_SKIP, ", or leave them out by --on_invalid skip" if can_skip else "")
        text = text.replace(_SETTING, "leaving rows out").replace("with `split`", "with --split")
        raise DataError(text) from error.__cause__


def _as_options(columns: str) -> str:
    """Turn `prompt: question, label: null` into `prompt=question label=`."""
    named = [each.partition(": ")[::2] for each in columns.split(", ")]
    theirs = {"null": "", "<column in the file>": "COLUMN"}
    return " ".join(
        f"{ours}={shlex.quote(name) if (name := theirs.get(given, given)) else ''}" for ours, given in named
    )


class _Columns(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: Any, *_: Any) -> None:
        if bad := [text for text in values if "=" not in text]:
            parser.error(f"--columns {bad[0]}: expected NAME=COLUMN")
        options.columns = {ours: theirs or None for ours, _, theirs in (text.partition("=") for text in values)}


def number_of_rows(text: str) -> int:
    """Read a number of rows on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of at least 1; leave the option out for all rows")
    return int(text)


def positive(text: str) -> int:
    """Read a number of at least 1 on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of at least 1")
    return int(text)
