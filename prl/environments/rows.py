"""Rows of `GuessTheNumber`, made from a seed: `python -m prl.environments.rows --out FOLDER`."""

import argparse
import json
from pathlib import Path
from random import Random

from prl.environments.guess import games
from prl.system.outputs import check_file, lines_with, write_text


def main(args: list[str] | None = None) -> None:
    """Write `train.jsonl` and `validation.jsonl`; equal seeds give equal bytes."""
    parser = argparse.ArgumentParser("python -m prl.environments.rows", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/game"), help="folder of both files")
    parser.add_argument("--seed", type=int, default=0, help="of every draw")
    parser.add_argument("--rows", type=int, default=2000, help="of the training file; the other has a tenth")
    options = parser.parse_args(args)
    counts = {"train": options.rows, "validation": -(-options.rows // 10)}
    for name in counts:
        check_file(options.out / f"{name}.jsonl", f"the {name} file", lines_with("prompt", "secret"))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, count in counts.items():
        rows = games(Random(f"{options.seed}/{name}"), count)
        write_text(options.out / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
