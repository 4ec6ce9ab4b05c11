"""`prl corrupt FILE|HUB_ID`: write preference pairs with responses whose keywords are removed to some level, for SPO.

The file has the pairs and their further columns, and beside them corrupted_chosen, corrupted_rejected, level_chosen and
level_rejected.
"""

import argparse
import json
from pathlib import Path

from prl.cli.commands.sources import add_source_options, errors_in_options, number_of_rows, positive
from prl.system.outputs import check_file, writing


def main(args: list[str]) -> None:
    """Write the pairs, and print what was counted."""
    parser = argparse.ArgumentParser("prl corrupt", description=__doc__)
    parser.add_argument("source", help="pairs in any shape of docs/data.md, a file or a hub id")
    parser.add_argument("--output", type=Path, required=True, help=".jsonl file to write; must not exist")
    parser.add_argument("--levels", type=positive, default=4, help="levels of removal, with the untouched one (4)")
    parser.add_argument("--stop_words", type=Path, help="text file of words that are no keywords (an English list)")
    parser.add_argument("--limit", type=number_of_rows, help="read only the first so many rows")
    add_source_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the levels (0)")
    options = parser.parse_args(args)
    if options.output.suffix != ".jsonl":
        parser.error(f"--output {options.output}: expected a name that ends in .jsonl")
    if options.levels < 2:
        parser.error("--levels 1 leaves nothing to tell; expected at least 2")
    check_file(options.output, "--output", inputs=[options.source, options.stop_words])
    counts = write(options)
    print(f"wrote {counts.pop('pairs')} pairs to {options.output}")
    for words, count in sorted(counts.items()):
        print(f"{count:>8} {words}")


def write(options: argparse.Namespace) -> dict[str, int]:
    """Write the rows, all or none. Raises DataError for a row that cannot be read, ValueError for one in the way."""
    from prl.data import DataSource, PreferencePair, load_records
    from prl.pairs.corruption import STOP_WORDS, Corrupter

    words = STOP_WORDS if options.stop_words is None else _words(options.stop_words)
    corrupter = Corrupter(options.levels, options.seed, words)
    source = DataSource(options.source, options.split, options.name, options.columns, options.limit)
    with errors_in_options(can_skip=False):
        records = load_records(source, PreferencePair).records
    with writing(options.output) as partial, partial.open("w", encoding="utf-8") as file:
        for number, pair in enumerate(records):
            file.write(json.dumps(corrupter.row(pair, number), ensure_ascii=False) + "\n")
    return {"pairs": len(records), **corrupter.counts}


def _words(path: Path) -> frozenset[str]:
    try:
        found = frozenset(path.read_text(encoding="utf-8").lower().split())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--stop_words {path} cannot be read ({error}); give a text file in UTF-8") from error
    if not found:
        raise ValueError(f"--stop_words {path} is empty; leave the option out for the English list")
    return found
