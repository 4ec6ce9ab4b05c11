"""Options that name a source of rows, shared by every command that reads data."""

import argparse
from typing import Any


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
