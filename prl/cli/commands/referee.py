"""`prl referee FILE|HUB_ID`: write prompts that ask a policy for a score of each of several ranked responses, for URPO.

A row has the question as `prompt`, the ranking as `gold_scores` in the order in which the responses are shown, and what
a perfect referee would answer as `anchor`. Further columns of the preference data are not kept.
"""

import argparse
import json
from pathlib import Path

from prl.cli.commands.sources import add_source_options, errors_in_options, number_of_rows
from prl.system.outputs import check_file, writing


def main(args: list[str]) -> None:
    """Write the prompts, and print what was counted."""
    parser = argparse.ArgumentParser("prl referee", description=__doc__)
    parser.add_argument("source", help="pairs or ranked lists in any shape of docs/data.md, a file or a hub id")
    parser.add_argument("--output", type=Path, required=True, help=".jsonl file to write; must not exist")
    parser.add_argument("--instruction", help="what the scores are to mean; the same as SelfReferee's")
    parser.add_argument(
        "--scale",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="lowest and highest score (1 10), as SelfReferee's",
    )
    parser.add_argument("--limit", type=number_of_rows, help="read only the first so many rows")
    add_source_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the order in which responses are shown (0)")
    options = parser.parse_args(args)
    if options.output.suffix != ".jsonl":
        parser.error(f"--output {options.output}: expected a name that ends in .jsonl")
    check_file(options.output, "--output", inputs=[options.source])
    written, alike = write(options)
    print(f"wrote {written} prompts to {options.output}")
    print(f"{alike:>8} left out, whose responses are all ranked alike")


def write(options: argparse.Namespace) -> tuple[int, int]:
    """Write the rows, all or none: how many, and how many were left out.

    Raises:
        DataError: for a row that cannot be read.
        ValueError: for a scale whose ends are not two rising finite numbers.
    """
    from prl.data import DataSource, load_records
    from prl.judge.referee_prompt import INSTRUCTION, SCALE, check_scale
    from prl.pairs.referee import Ranking, referee_row

    scale = check_scale("--scale", options.scale or SCALE)
    instruction = INSTRUCTION if options.instruction is None else options.instruction
    source = DataSource(options.source, options.split, options.name, options.columns, options.limit)
    with errors_in_options(can_skip=False):
        rankings = load_records(source, Ranking).records
    rows = [referee_row(each, instruction, scale, options.seed) for each in rankings]
    kept = [row for row in rows if row is not None]
    with writing(options.output) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    return len(kept), len(rows) - len(kept)
