"""`prl strength FILE|HUB_ID`: write preference pairs with how strong each of them is, by the votes of several judges.

The file has the pairs and their further columns, and beside them strength_mean and strength_std: of r(chosen) -
r(rejected) over reward models, or of the log-odds of other judges.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from prl.cli.commands.sources import add_source_options, errors_in_options, number_of_rows
from prl.config import DTYPES
from prl.system.outputs import check_file, writing


def main(args: list[str]) -> None:
    """Write the pairs, and print what was counted."""
    parser = argparse.ArgumentParser("prl strength", description=__doc__)
    parser.add_argument("source", help="pairs in any shape of docs/data.md, a file or a hub id")
    parser.add_argument("--judges", nargs="+", required=True, help="folders or hub ids of reward models or judges")
    parser.add_argument("--output", type=Path, required=True, help=".jsonl file to write; must not exist")
    parser.add_argument(
        "--flip", type=_share, default=0.0, help="share of the pairs, those whose label is supported least, to flip (0)"
    )
    parser.add_argument(
        "--soft_labels", action="store_true", help="write the sigmoid of the mean vote as `preference` instead"
    )
    parser.add_argument("--dtype", default=DTYPES[0], choices=DTYPES, help="type in which the judges work")
    parser.add_argument("--limit", type=number_of_rows, help="read only the first so many rows")
    add_source_options(parser)
    options = parser.parse_args(args)
    if options.output.suffix != ".jsonl":
        parser.error(f"--output {options.output}: expected a name that ends in .jsonl")
    if len(set(options.judges)) < len(options.judges):
        parser.error(f"--judges {' '.join(options.judges)}: a judge votes once; leave the repeated one out")
    if options.flip and options.soft_labels:
        parser.error("--flip and --soft_labels both write labels; leave one of them out")
    check_file(options.output, "--output", inputs=[options.source, *options.judges])
    counts, told = write(options)
    print(f"wrote {counts.pop('written')} pairs to {options.output}")
    for words, count in counts.items():
        print(f"{count:>8} {words}")
    print("\n".join(told))


def write(options: argparse.Namespace) -> tuple[dict[str, int], list[str]]:
    """Write the rows, all or none. Raises DataError for a row that cannot be read, ValueError for one in the way."""
    import torch

    from prl.data import DataSource, PreferencePair, load_records
    from prl.pairs.strength import strength_row, strengths, vote, weakest

    source = DataSource(options.source, options.split, options.name, options.columns, options.limit)
    with errors_in_options(can_skip=False):
        pairs = load_records(source, PreferencePair).records
    votes = [vote(folder, pairs, options.dtype) for folder in options.judges]
    labels = torch.tensor([pair.preference for pair in pairs], dtype=torch.float64)
    mean, std = strengths(torch.stack([each.margins for each in votes]))
    flips = weakest(mean, labels, options.flip)
    written = mean.sigmoid() if options.soft_labels else torch.where(flips, 1 - labels, labels)
    with writing(options.output) as partial, partial.open("w", encoding="utf-8") as file:
        for number, pair in enumerate(pairs):
            if not mean[number].isnan():
                row = strength_row(pair, number, *(float(each[number]) for each in (mean, std, written)))
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    support = torch.where(labels > 0.5, mean, -mean)
    against = (support < 0) & (labels != 0.5)
    counts = {
        "written": int((~mean.isnan()).sum()),
        "left out, where a judge failed": int(mean.isnan().sum()),
        "ties in the labels": int((labels == 0.5).sum()),
        "whose label the mean vote is against": int(against.sum()),
        "flipped": int(flips.sum()),
        "flipped although the mean vote is for the label": int((flips & ~against).sum()),
    }
    return counts, [_about(folder, each, labels) for folder, each in zip(options.judges, votes, strict=True)]


def _about(folder: str, found: Any, labels: Any) -> str:
    """Describe the votes of one judge in a line."""
    from prl.verdict import agreement, has_winner

    decided = has_winner(labels) & ~found.margins.isnan()
    right = agreement(found.margins, labels)[decided]
    agrees = f"{float(right.mean()):.3f}" if len(right) else "no pair has a winner, so none"
    scale = "" if found.mean is None else f"; rewards: mean {found.mean:.6g}, std {found.std:.6g}"
    return f"{folder}: agreement with the labels {agrees}{scale}"


def _share(text: str) -> float:
    """Read a share on the command line."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share of at least 0 and below 1")
    return share
