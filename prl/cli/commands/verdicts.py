"""`prl verdicts FOLDER`: say what a folder of verdicts holds, or export it as preference pairs.

The folder is that of a `StoredJudge`, or of `prl judge --verdict_store`.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from prl.system.outputs import check_file, lines_with, writing

if TYPE_CHECKING:
    from prl.judge.verdict_export import StoredVerdicts


def main(args: list[str]) -> None:
    """Count verdicts by judge, or write the pairs of one judge."""
    parser = argparse.ArgumentParser("prl verdicts", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of verdicts")
    parser.add_argument(
        "--export", type=Path, help=".jsonl file to write: prompt, chosen, rejected, preference, source of each pair"
    )
    parser.add_argument("--judge_id", help="judge whose verdicts are exported, where the folder holds several")
    options = parser.parse_args(args)
    if options.judge_id is not None and options.export is None:
        parser.error("--judge_id goes with --export")
    if options.export is not None and options.export.suffix != ".jsonl":
        parser.error(f"--export {options.export}: expected a name that ends in .jsonl")
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder; give that of a StoredJudge, or of `prl judge --verdict_store`")
    if options.export is not None:
        own = lines_with("prompt", "chosen", "rejected", "preference", "source")
        check_file(options.export, "--export", own, [options.folder])
    from prl.judge.verdict_export import StoredVerdicts

    stored = StoredVerdicts(options.folder)
    if options.export is None:
        show(stored)
        return
    judge, number = stored.judge(options.judge_id), 0
    with writing(options.export) as partial, partial.open("w", encoding="utf-8") as file:
        for row in stored.rows(judge):
            file.write(json.dumps(row) + "\n")
            number += 1
    print(f"wrote {number} pairs of judge {judge} to {options.export}")
    if left_out := stored.num_one_order(judge):
        print(f"left out: {left_out} pairs that were read in one order alone")


def show(stored: "StoredVerdicts") -> None:
    """Print for each judge what it is, and what was read."""
    for judge, margins in stored.margins.items():
        about = stored.about.get(judge, {})
        both, one = sum(1 for _ in stored.pairs(judge)), stored.num_one_order(judge)
        print(f"judge {judge}: {len(margins)} readings, {both} pairs in both orders, {one} in one")
        print("\n".join(f"  {name}: {json.dumps(value)[:100]}" for name, value in about.items()))
