"""Loops of sampling, judging and training on the quickstart's world: true quality by round, several seeds of each.

Takes a finished quickstart at runs/quickstart. Each loop is `prl rounds` with a config of configs/rounds, three rounds
on a third of the prompts each; a seed decides draws and batches. A run that is in the results file already is not
repeated, and one that was stopped goes on.
"""

import argparse
from pathlib import Path
from typing import Any

from methods import measure
from runs import missing_runs, table

LOOPS = {"iterative DPO": (), "SPPO": ("sppo",), "DNO": ("dno",), "RSO": ("rso",), "APO": ("apo",)}
"""Loop -> overlays of configs/rounds on top of its dpo.yaml."""
ROUNDS = 3
COLUMNS = {f"gold_{n}": (f"gold quality, round {n}", 3) for n in range(1, ROUNDS + 1)}
COLUMNS |= {"win_prob": ("win probability against the start, the judge's", 3), "kl": ("KL, nats", 2)}


def train(name: str, seed: int, quickstart: Path, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make the rounds of a loop, and measure the policy of each."""
    from prl.cli.commands.rounds import TABLE, main
    from prl.system.json_files import parse_object

    folder = out / f"{name.replace(' ', '_')}.{seed}"
    configs = [f"--config=configs/rounds/{each}.yaml" for each in ("dpo", *LOOPS[name])]
    main([*configs, "--out", str(folder), "--pairs.seed", str(seed), "--rounds.number", str(ROUNDS), *overrides])
    reports = parse_object(f'{{"rounds": {(folder / TABLE).read_text(encoding="utf-8")}}}')["rounds"]
    found = [measure(Path(each["model"]), quickstart) for each in reports]
    return {
        **{f"gold_{n}": each["gold"] for n, each in enumerate(found, 1)},
        **{"win_prob": reports[-1]["win_rate"], "kl": found[-1]["kl"]},
        "pairs": [each["pairs"]["pairs"] for each in reports],
    }


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/rounds"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", choices=LOOPS, action="append", help="one loop; may be given several times")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="after --: settings of every loop")
    options = parser.parse_args()
    overrides = [each for each in options.overrides if each != "--"]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    wanted = [(name, seed) for seed in seeds for name in options.only or LOOPS]
    rows = missing_runs(
        options.out / "results.jsonl",
        wanted,
        lambda name, seed: train(name, seed, options.quickstart, options.out, overrides),
    )
    print(table(rows, "loop", COLUMNS))


if __name__ == "__main__":
    main()
