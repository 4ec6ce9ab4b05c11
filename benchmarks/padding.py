"""Share of padding in judge batches with and without grouping by length, on a preference file.

python benchmarks/padding.py --pairs runs/quickstart/world/pairs.train.jsonl --tokenizer runs/quickstart/world/tokenizer
"""

import argparse
import json
from itertools import islice

from prl.config import ModelSource
from prl.data import DataSource, LengthGroupedBatchSampler, PreferencePair, load_records
from prl.judge import ComparisonEncoder, JudgeTemplate
from prl.models.loading import load_tokenizer


def padding_share(lengths: list[int], batch_size: int, *, grouped: bool) -> float:
    """Share of the tokens of an epoch's batches that are padding."""
    batches = LengthGroupedBatchSampler(
        lengths, batch_size, shuffle=True, seed=0, drop_last=True, group_by_length=grouped
    )
    padded = real = 0
    for rows in islice(batches, len(batches)):
        widths = [lengths[row] for row in rows]
        padded += max(widths) * len(widths)
        real += sum(widths)
    return 1 - real / padded


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--tokenizer", required=True, help="model or tokenizer folder")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    options = parser.parse_args()
    encoder = ComparisonEncoder(
        load_tokenizer(ModelSource(path=options.tokenizer)), JudgeTemplate(), options.max_length
    )
    records = load_records(DataSource(options.pairs), PreferencePair, "skip").records
    lengths = [row["length"] for row in map(encoder.encode, records) if row]
    shares = {
        name: padding_share(lengths, options.batch_size, grouped=grouped)
        for name, grouped in (("plain", False), ("grouped", True))
    }
    ratio = (1 - shares["grouped"]) / (1 - shares["plain"])
    print(json.dumps({"pairs": len(lengths), "padding_share": shares, "useful_tokens_ratio": ratio}))


if __name__ == "__main__":
    main()
