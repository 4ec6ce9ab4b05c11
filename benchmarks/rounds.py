"""Loops of sampling, judging and training on the quickstart's world: true quality by round, several seeds of each.

Takes a finished quickstart at runs/quickstart. Each loop is `prl rounds` with a config of configs/rounds, three rounds
on a third of the prompts each; a seed decides draws and batches. A run that is in the results file already is not
repeated, and one that was stopped goes on.
"""

import json
from pathlib import Path
from typing import Any

from methods import measure
from runs import make_missing, run_options, table

LOOPS = {
    **{"iterative DPO": (), "SPPO": ("sppo",), "DNO": ("dno",), "RSO": ("rso",), "APO": ("apo",)},
    "HERON": ("heron",),  # takes the quickstart's Bradley-Terry model
}
"""Loop -> overlays of configs/rounds on top of its dpo.yaml."""
QUICKSTART = Path("runs/quickstart")
"""Folder of the models and prompts that the configs name."""
ROUNDS = 3
COLUMNS = {f"gold_{n}": (f"gold quality, round {n}", 3) for n in range(1, ROUNDS + 1)}
COLUMNS |= {"win_prob": ("win probability against the start, the judge's", 3), "kl": ("KL, nats", 2)}


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make the rounds of a loop, and measure the policy of each."""
    from prl.cli.commands.rounds import TABLE, main

    folder = out / f"{name.replace(' ', '_')}.{seed}"
    configs = [f"--config=configs/rounds/{each}.yaml" for each in ("dpo", *LOOPS[name])]
    main([*configs, "--out", str(folder), "--pairs.seed", str(seed), "--rounds.number", str(ROUNDS), *overrides])
    reports = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    found = [measure(Path(each["model"]), QUICKSTART) for each in reports]
    return {
        **{f"gold_{n}": each["gold"] for n, each in enumerate(found, 1)},
        **{"win_prob": reports[-1]["win_rate"], "kl": found[-1]["kl"]},
        "pairs": [each["pairs"]["pairs"] for each in reports],
    }


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/rounds", LOOPS)
    rows = make_missing(options, train)
    print(table(rows, "loop", COLUMNS))


if __name__ == "__main__":
    main()
