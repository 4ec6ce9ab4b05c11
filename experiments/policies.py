"""Claim (b): pairwise PPO against anchors beats PPO on scalar rewards, and its neighbours.

The protocol is docs/results/claims/policies.md, fixed before the first run. Needs runs/quickstart with its world and
supervised stage. Reward models are trained first: `judge.J` (generative, as the quickstart ships it) and
`bradley_terry.J` for each J below JUDGES, from the same pairs and start. Every arm samples the same number of responses
in the same number of iterations; its KL weight is the one with which its policy ended best in a search on judge 0 with
a seed of its own: among COEFS, and beyond them where the last is best. A seed decides draws, batches and the critic.
Each run is a line in experiments/results/policies.jsonl and is not repeated.

    python -m experiments.policies --seeds 5
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.online_inputs import fit_model, read_rows
from benchmarks.runs import missing_runs, run_options
from experiments import judges
from experiments.figures import draw_policies
from experiments.pages import IMAGES, publish
from experiments.training import QUICKSTART, as_arguments, best_setting, timed_fit
from experiments.trajectories import difference_table, policy_tables, trajectory
from experiments.verdicts import every_run, search_table

RESULTS = Path("experiments/results/policies.jsonl")
TUNING = RESULTS.with_name("policies_tuning.jsonl")
OUT = Path("runs/claims/policies")
JUDGES, TUNING_SEED = 3, 99
COEFS = (0.0, 0.01, 0.03, 0.1, 0.3)
EVERY = 5
"""Iterations between two validations."""
ADAPTIVE_ERROR = 0.02
"""Largest expected error of a win probability of which one order alone was read."""


@dataclass(frozen=True)
class Arm:
    """A method: its overlays on top of the quickstart's pairwise PPO, and its reward."""

    reward: str
    """Kind of the reward source."""
    overlays: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the run on top of all others."""
    second_order: Literal["always", "near", "never"] = "always"
    """When the judge reads the second order; near by a threshold of its own for an error of ADAPTIVE_ERROR."""
    attacked: bool = True
    """True for a judge that learnt that attacks lose, as the quickstart's did."""

    @property
    def model(self) -> str:
        """Name of the reward models that it takes, without their number."""
        if self.reward != "GenerativeJudge":
            return "bradley_terry"
        return "judge" if self.attacked else "judge_of_pairs"


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
FURTHER = {
    "pairwise PPO, Bradley-Terry": ("scalar PPO", "scalar PPO, normalised", "PAR"),
    "GRPO, win rates": ("GRPO, scalar",),
    "P3O": ("RLOO", "GRPO, win rates"),
}
"""Further differences below those of pairwise PPO: anchors without the judge, one group baseline or another."""


def reward_model(name: str, number: int) -> Path:
    """Train a judge or a Bradley-Terry model of a seed, at the rate that the judge study found, unless it is there."""
    scalar = name == "bradley_terry"
    config = "bradley_terry" if scalar else "generative_reward"
    rate = judges.tuned("Bradley-Terry" if scalar else "generative", judges.CELLS[judges.PRIMARY], judges.OUT)
    settings = {
        "seed_everything": number,
        "data.init_args.seed": number,
        "data.init_args.train.path": QUICKSTART / "world" / "pairs.train.jsonl",
        "data.init_args.validation.path": QUICKSTART / "world" / "pairs.validation.jsonl",
        "model.init_args.model.path": QUICKSTART / "supervised" / "model",
        "model.init_args.optimization.learning_rate": rate,
    }
    if name == "judge_of_pairs":
        settings["data.init_args.attacks"] = "null"
    return fit_model(OUT / f"{name}.{number}", "--config", f"configs/quickstart/{config}.yaml", *as_arguments(settings))


def reward_source(arm: Arm, folder: Path) -> dict[str, Any]:
    """Name the reward source of an arm, with the judge in a folder."""
    source = {"class_path": arm.reward, "init_args": {"path": str(folder)}}
    if arm.second_order == "always":
        return source
    given: dict[str, Any] = {"threshold": 0.0}
    if arm.second_order == "near":
        from prl.data import DataSource, PreferencePair, load_records
        from prl.judge import load_judge
        from prl.judge.adaptive import fit_threshold

        pairs = load_records(DataSource(str(QUICKSTART / "world" / "pairs.validation.jsonl")), PreferencePair).records
        sides = [p.chosen for p in pairs], [p.rejected for p in pairs]
        verdict = load_judge(folder).compare([p.prompt for p in pairs], *sides)
        fitted = fit_threshold(verdict, ADAPTIVE_ERROR, [json.dumps(p.prompt) for p in pairs])
        given = {"threshold": fitted.threshold, "offset": fitted.offset}
    return {"class_path": "prl.judge.adaptive.AdaptiveOrder", "init_args": {"judge": source, **given}}


def fit(arm: Arm, run: Path, judge: int, seed: int, coef: float, iterations: int) -> float:
    """Train one policy, unless it is there, and return the processor seconds that it took."""
    settings = {
        "model.init_args.reward": json.dumps(reward_source(arm, reward_model(arm.model, judge))),
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
        **arm.settings,
    }
    overlays = [f"configs/methods/{name}.yaml" for name in arm.overlays]
    configs = [text for path in ("configs/quickstart/pairwise_ppo.yaml", *overlays) for text in ("--config", path)]
    return timed_fit(run, *configs, *as_arguments(settings))[1]


def train(name: str, arm: Arm, judge: int, seed: int, coef: float, iterations: int = 45) -> dict[str, Any]:
    """Train one policy, and measure every validation of it against the truth."""
    run = OUT / f"{name.replace(', ', '_').replace(' ', '_')}.{judge}.{seed}.{coef}.{iterations}"
    seconds = fit(arm, run, judge, seed, coef, iterations)
    points = trajectory(run)
    return {"judge": judge, "coef": coef, "cpu_seconds": seconds, "gold": points[-1]["gold"], "points": points}


def tuned(name: str, arm: Arm) -> float:
    """Return the KL weight of an arm, searched once."""

    def try_coef(coef: float) -> dict[str, Any]:
        return train(name, arm, 0, TUNING_SEED, coef)

    return best_setting(TUNING, name, COEFS, TUNING_SEED, try_coef, lambda line: line["gold"], factor=10 / 3)


def run(variant: str, seed: int) -> dict[str, Any]:
    """Make one run of the study; its variant names arm, judge and whether it is long."""
    name, _, rest = variant.partition(" | judge ")
    number, _, long = rest.partition(", ")
    arm = ARMS[name]
    return train(name, arm, int(number), seed, tuned(name, arm), iterations=180 if long else 45)


def line(variant: str, seed: int) -> dict[str, Any]:
    """Return the line of a run, which is made when it is missing; another study that has the arm takes it."""
    lines = missing_runs(RESULTS, [(variant, seed)], run)
    return next(each for each in lines if (each["variant"], each["seed"]) == (variant, seed))


def main() -> None:
    """Run what is missing, then write tables, verdicts and figure of all runs that are there."""
    variants = [f"{name} | judge {judge}" for judge in range(JUDGES) for name in ARMS]
    options = run_options(__doc__, str(OUT), [*variants, *(f"{name} | judge 0, long" for name in LONG)], seeds=5)
    lines = missing_runs(RESULTS, options.wanted, run)
    draw_policies(lines, list(ARMS), IMAGES / "policies.png")
    searches = search_table(read_rows(TUNING), "gold", ARMS)
    further = ["\n".join(difference_table(lines, first, list(others))) for first, others in FURTHER.items()]
    publish("policies", policy_tables(lines, list(ARMS)), *further, every_run(lines, "gold"), searches)


if __name__ == "__main__":
    main()
