"""Both claims in small, with figures, in less than half an hour on two cores.

`make claims-small`. Takes a finished quickstart at runs/quickstart. The primary cell of the judge study with two seeds,
and three arms of the policy study with two judges and two seeds, in two processes; learning rates and KL weights are
those that the full studies found (experiments/results). What is finished is kept, so a stopped command goes on. Tables,
figures and lines of results go to runs/claims/small.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.online_inputs import read_rows
from benchmarks.runs import missing_runs
from experiments import judges, policies
from experiments.figures import draw_judges, draw_policies
from experiments.trajectories import policy_tables
from experiments.verdicts import judge_tables

OUT = Path("runs/claims/small")
PROCESSES = SEEDS = JUDGES = 2
JUDGE_ARMS = ("generative", "Bradley-Terry", "GPM")
POLICY_ARMS = ("pairwise PPO", "pairwise PPO, Bradley-Terry", "scalar PPO, normalised")
REWARD_MODELS = ("judge", "bradley_terry")
JUDGE_LINES, POLICY_LINES = OUT / "judges.jsonl", OUT / "policies.jsonl"


def make(name: str, number: int) -> None:
    """Make a reward model of the policies, or one run of either study, unless it is there."""
    if name in REWARD_MODELS:
        policies.reward_model(name, number)
    elif name.startswith(f"{judges.PRIMARY}: "):
        missing_runs(JUDGE_LINES, [(name, number)], lambda arm, seed: judges.run(arm, seed, judges.OUT))
    else:
        missing_runs(POLICY_LINES, [(name, number)], policies.run)


def make_all(wanted: list[tuple[str, int]]) -> None:
    """Make models or runs in processes of one thread each, and stop at the first error."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        made = [pool.submit(make, *each) for each in wanted]
        try:
            for each in made:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> None:
    """Run both studies side by side, then draw their figures and print their tables."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes below, which import torch after this
    OUT.mkdir(parents=True, exist_ok=True)
    make_all([(name, number) for number in range(JUDGES) for name in REWARD_MODELS])
    arms = [f"{name} | judge {number}" for number in range(JUDGES) for name in POLICY_ARMS]
    arms += [f"{judges.PRIMARY}: {name}" for name in JUDGE_ARMS]
    make_all([(arm, seed) for arm in arms for seed in range(SEEDS)])
    of_judges, of_policies = read_rows(JUDGE_LINES), read_rows(POLICY_LINES)
    draw_judges(of_judges, [judges.PRIMARY], JUDGE_ARMS, OUT / "judges.png")
    draw_policies(of_policies, POLICY_ARMS, OUT / "policies.png")
    tables = judge_tables(of_judges, [judges.PRIMARY], list(JUDGE_ARMS)), policy_tables(of_policies, list(POLICY_ARMS))
    (OUT / "tables.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    print("\n\n".join(tables))
    print(f"Tables: {OUT}/tables.md. Figures: {OUT}/judges.png and {OUT}/policies.png")


if __name__ == "__main__":
    main()
