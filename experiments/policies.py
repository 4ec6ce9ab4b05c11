"""Claim (b): pairwise PPO against anchors beats PPO on scalar rewards, and its neighbours.

The protocol is docs/results/claims/policies.md, fixed before the first run. Needs runs/quickstart with its world and
supervised stage. Reward models are trained first: `judge.J` (generative, as the quickstart ships it) and
`bradley_terry.J` for each J below JUDGES, from the same pairs and start. Every arm samples the same number of responses
in the same number of iterations; its KL weight is the one of COEFS with which its policy ended best in a search on
judge 0 with a seed of its own. A seed decides draws, batches and the critic. Each run is a line in
experiments/results/policies.jsonl and is not repeated.

    python -m experiments.policies --seeds 5
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import fit_model
from benchmarks.runs import missing_runs, run_options
from experiments.training import QUICKSTART, as_arguments
from experiments.trajectories import policy_tables, trajectory

RESULTS = Path("experiments/results/policies.jsonl")
OUT = Path("runs/claims/policies")
JUDGES, TUNING_SEED = 3, 99
COEFS = (0.0, 0.01, 0.03, 0.1, 0.3)
EVERY = 5
"""Iterations between two validations."""


@dataclass(frozen=True)
class Arm:
    """A method: its overlays on top of the quickstart's pairwise PPO, and its reward."""

    reward: str
    """Kind of the reward source."""
    overlays: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Name of the reward models that it takes, without their number."""
        return "judge" if self.reward == "GenerativeJudge" else "bradley_terry"


ARMS: dict[str, Arm] = {
    "pairwise PPO": Arm("GenerativeJudge"),
    "pairwise PPO, Bradley-Terry": Arm("BradleyTerryJudge"),
    "scalar PPO": Arm("ScalarReward"),
    "scalar PPO, normalised": Arm("ScalarReward", ("running_mean_std",)),
    "PAR": Arm("ScalarReward", ("par",)),
    "GRPO, win rates": Arm("GenerativeJudge", ("grpo",)),
    "GRPO, scalar": Arm("ScalarReward", ("grpo",)),
    "RLOO": Arm("GenerativeJudge", ("rloo",)),
    "P3O": Arm("GenerativeJudge", ("p3o",)),
}
LONG = ("pairwise PPO", "scalar PPO, normalised", "PAR", "GRPO, win rates", "GRPO, scalar")
"""Arms that are also trained four times as long."""


def reward_model(name: str, number: int) -> Path:
    """Train a judge or a Bradley-Terry model of a seed, unless it is there."""
    config = {"judge": "generative_reward", "bradley_terry": "bradley_terry"}[name]
    settings = {
        "seed_everything": number,
        "data.init_args.seed": number,
        "data.init_args.train.path": QUICKSTART / "world" / "pairs.train.jsonl",
        "data.init_args.validation.path": QUICKSTART / "world" / "pairs.validation.jsonl",
        "model.init_args.model.path": QUICKSTART / "supervised" / "model",
    }
    return fit_model(OUT / f"{name}.{number}", "--config", f"configs/quickstart/{config}.yaml", *as_arguments(settings))


def fit(arm: Arm, run: Path, judge: int, seed: int, coef: float, iterations: int) -> float:
    """Train one policy, unless it is there, and return the processor seconds that it took."""
    source = {"class_path": arm.reward, "init_args": {"path": str(reward_model(arm.model, judge))}}
    settings = {
        "model.init_args.reward": json.dumps(source),
        "model.init_args.policy.path": QUICKSTART / "supervised" / "model",
        "model.init_args.judge_gate.mode": "off",
        "model.init_args.kl.coef": coef,
        "model.init_args.iterations": iterations,
        "data.init_args.train.path": QUICKSTART / "world" / "prompts.train.jsonl",
        "data.init_args.validation.path": QUICKSTART / "world" / "prompts.validation.jsonl",
        "data.init_args.seed": seed,
        "seed_everything": seed,
        "trainer.num_sanity_val_steps": -1,
        "trainer.val_check_interval": EVERY,
    }
    overlays = [f"configs/methods/{name}.yaml" for name in arm.overlays]
    configs = [text for path in ("configs/quickstart/pairwise_ppo.yaml", *overlays) for text in ("--config", path)]
    began = time.process_time()
    fit_model(run, *configs, *as_arguments(settings))
    return time.process_time() - began


def train(name: str, judge: int, seed: int, coef: float, iterations: int = 45) -> dict[str, Any]:
    """Train one policy, and measure every validation of it against the truth."""
    run = OUT / f"{name.replace(', ', '_').replace(' ', '_')}.{judge}.{seed}.{coef}.{iterations}"
    seconds = fit(ARMS[name], run, judge, seed, coef, iterations)
    points = trajectory(run)
    return {"judge": judge, "coef": coef, "cpu_seconds": seconds, "gold": points[-1]["gold"], "points": points}


def tuned(name: str) -> float:
    """Return the KL weight of an arm, searched once."""

    def search(variant: str, seed: int) -> dict[str, Any]:
        return train(name, 0, seed, float(variant.rpartition(" ")[2]))

    wanted = [(f"{name} {coef}", TUNING_SEED) for coef in COEFS]
    lines = missing_runs(RESULTS.with_name("policies_tuning.jsonl"), wanted, search)
    own = [line for line in lines if (line["variant"], line["seed"]) in wanted]
    return max(own, key=lambda line: line["gold"])["coef"]


def run(variant: str, seed: int) -> dict[str, Any]:
    """Make one run of the study; its variant names arm, judge and whether it is long."""
    name, _, rest = variant.partition(" | judge ")
    number, _, long = rest.partition(", ")
    return train(name, int(number), seed, tuned(name), iterations=180 if long else 45)


def main() -> None:
    """Run what is missing, then print the tables and verdicts."""
    variants = [f"{name} | judge {judge}" for judge in range(JUDGES) for name in ARMS]
    options = run_options(__doc__, str(OUT), [*variants, *(f"{name} | judge 0, long" for name in LONG)])
    print(policy_tables(missing_runs(RESULTS, options.wanted, run), list(ARMS)))


if __name__ == "__main__":
    main()
