"""Iterative DPO beside the policies of `experiments.policies`: as many responses, in three rounds of `prl rounds`.

Part of the protocol docs/results/claims/policies.md. Each round samples five responses to each of 384 prompts (5,760 in
all, as the policies sample), takes the best against the worst under a judge, and learns from these pairs in 90 steps,
as many steps in all as PPO takes. Its learning rate is searched as the KL weights of the policies are. Each run is a
line in experiments/results/iterative_dpo.jsonl and is not repeated.

    python -m experiments.iterative_dpo --seeds 5
"""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import QUIET, read_rows
from benchmarks.runs import missing_runs, run_options
from experiments.pages import publish
from experiments.policies import JUDGES, OUT, TUNING_SEED, reward_model
from experiments.policies import RESULTS as OF_POLICIES
from experiments.training import QUICKSTART, as_arguments, best_setting
from experiments.trajectories import crossed, difference_table
from experiments.verdicts import every_run, search_table

RESULTS = Path("experiments/results/iterative_dpo.jsonl")
TUNING = RESULTS.with_name("iterative_dpo_tuning.jsonl")
RATES = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4)
ROUNDS, PROMPTS, STEPS = 3, 1152, 90
REWARDS = {"judge": ("GenerativeJudge", "judge"), "Bradley-Terry": ("ScalarReward", "bradley_terry")}


def train(name: str, judge: int, seed: int, rate: float) -> dict[str, Any]:
    """Make the rounds of one run, and measure the last policy against the truth."""
    from prl.cli.commands.rounds import TABLE, main
    from prl.config import Sampling
    from prl.quickstart.evaluate import evaluate

    kind, model = REWARDS[name]
    start, prompts = QUICKSTART / "supervised" / "model", QUICKSTART / "world" / "prompts.validation.jsonl"
    folder = OUT / f"iterative_dpo_{model}.{judge}.{seed}.{rate}"
    fit = {
        "trainer.max_steps": STEPS,
        "trainer.limit_val_batches": 0,
        "checkpoint.every_n_batches": STEPS,
        "model.init_args.optimization.learning_rate": rate,
        "model.init_args.optimization.warmup": STEPS // 20,
    }
    settings = {
        "out": folder,
        "rounds.number": ROUNDS,
        "rounds.prompt_shares": ROUNDS,
        "pairs.seed": seed,
        "pairs.policy.path": start,
        "pairs.prompts.path": QUICKSTART / "world" / "prompts.train.jsonl",
        "pairs.prompts.limit": PROMPTS,
        "pairs.reward": json.dumps({"class_path": kind, "init_args": {"path": str(reward_model(model, judge))}}),
        "fit.options": json.dumps(fit | dict(zip((name[2:] for name in QUIET[::2]), QUIET[1::2], strict=True))),
        "validation.path": prompts,
    }
    began = time.process_time()
    main(["--config", "configs/rounds/dpo.yaml", *as_arguments(settings)])
    seconds = time.process_time() - began
    last = json.loads((folder / TABLE).read_text(encoding="utf-8"))[-1]
    found = evaluate(Path(last["model"]), prompts, Sampling(max_new_tokens=12), reference=start)
    return {"judge": judge, "rate": rate, "cpu_seconds": seconds, "gold": found.gold.mean, "kl": found.kl}


def tuned(name: str) -> float:
    """Return the learning rate of an arm, searched once on judge 0."""

    def try_rate(rate: float) -> dict[str, Any]:
        return train(name, 0, TUNING_SEED, rate)

    return best_setting(TUNING, name, RATES, TUNING_SEED, try_rate, lambda line: line["gold"], factor=2)


def run(variant: str, seed: int) -> dict[str, Any]:
    """Make one run; its variant names the reward and the judge."""
    name, _, number = variant.partition(" | judge ")
    return train(name, int(number), seed, tuned(name))


def main() -> None:
    """Run what is missing, then write the table of all runs that are there."""
    variants = [f"{name} | judge {judge}" for judge in range(JUDGES) for name in REWARDS]
    options = run_options(__doc__, str(OUT), variants, seeds=5)
    lines = missing_runs(RESULTS, options.wanted, run)
    rows = ["| pairs by | learning rate | runs | gold | KL, nats | seconds |", "|---" * 6 + "|"]
    for name in REWARDS:
        own = {(line["judge"], line["seed"]): line for line in lines if line["variant"].startswith(f"{name} |")}
        cells = [crossed({key: line[figure] for key, line in own.items()}) for figure in ("gold", "kl", "cpu_seconds")]
        rows.append(f"| {name} | {next(iter(own.values()))['rate']} | {len(own)} | {' | '.join(cells)} |")
    rows += ["", *difference_table([*read_rows(OF_POLICIES), *lines], "pairwise PPO", list(REWARDS))]
    parts = every_run(lines, "gold"), search_table(read_rows(TUNING), "gold")
    publish("iterative_dpo", "\n".join(rows), *parts, page="policies")


if __name__ == "__main__":
    main()
