"""Both claims in small, with figures, in less than half an hour on two cores.

`make claims-small`. Takes a finished quickstart at runs/quickstart. The primary cell of the judge study with two seeds,
and three arms of the policy study with two judges and two seeds, in two processes; learning rates and KL weights are
those that the full studies found (experiments/results). Tables, figures and lines of results go to runs/claims/small.
"""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.runs import missing_runs
from experiments import judges, policies
from experiments.figures import draw_judges, draw_policies
from experiments.trajectories import policy_tables
from experiments.verdicts import judge_tables

OUT = Path("runs/claims/small")
SEEDS = 2
CELL = "paired"
ARMS = ("pairwise PPO", "pairwise PPO, Bradley-Terry", "scalar PPO, normalised")


def judge_study() -> str:
    """Run the part of the judge study."""
    wanted = [(f"{CELL}: {arm}", seed) for seed in range(SEEDS) for arm in judges.ARMS]
    lines = missing_runs(OUT / "judges.jsonl", wanted, lambda name, seed: judges.run(name, seed, judges.OUT))
    draw_judges(lines, [CELL], list(judges.ARMS), OUT / "judges.png")
    return judge_tables(lines, [CELL], list(judges.ARMS))


def policy_study() -> str:
    """Run the part of the policy study."""
    wanted = [(f"{arm} | judge {n}", seed) for seed in range(SEEDS) for n in range(2) for arm in ARMS]
    lines = missing_runs(OUT / "policies.jsonl", wanted, policies.run)
    draw_policies(lines, ARMS, OUT / "policies.png")
    return policy_tables(lines, list(ARMS))


PARTS = {"judges": judge_study, "policies": policy_study}


def main() -> None:
    """Run both parts side by side, then print their tables."""
    if len(sys.argv) > 1:
        table = PARTS[sys.argv[1]]()
        (OUT / f"{sys.argv[1]}.md").write_text(table + "\n", encoding="utf-8")
        return
    OUT.mkdir(parents=True, exist_ok=True)
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, "-m", "experiments.small", name], env=one) for name in PARTS]
    if any(process.wait() for process in running):
        raise SystemExit("a part failed; its error is above. What is finished is kept: run it again")
    for name in PARTS:
        print((OUT / f"{name}.md").read_text(encoding="utf-8"))
    print(f"Figures: {OUT}/judges.png and {OUT}/policies.png")


if __name__ == "__main__":
    main()
