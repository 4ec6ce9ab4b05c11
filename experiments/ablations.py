"""Measure what each part of pairwise PPO is worth: the method of `experiments.policies` with one thing changed.

The protocol is docs/results/claims/ablations.md, fixed before the first run. Takes the judges, and the KL weight, of
`experiments.policies`; its runs of SHARED are the ones to compare with, and are made where they are missing. Only
the arms of RESCALED, whose rewards have another scale, search a weight of their own. Each run is a line in
experiments/results/ablations.jsonl and is not repeated.

    python -m experiments.ablations --seeds 3
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import read_rows
from benchmarks.runs import missing_runs, run_options
from experiments import policies
from experiments.figures import draw_differences
from experiments.pages import IMAGES, publish
from experiments.policies import ARMS, JUDGES, Arm, reward_model, train, tuned
from experiments.training import QUICKSTART
from experiments.trajectories import difference_table, differences, policy_tables
from experiments.verdicts import every_run, search_table

RESULTS = Path("experiments/results/ablations.jsonl")
WHOLE = "pairwise PPO"
SIBLINGS = {"data.init_args.batch_size": 32, "model.init_args.sampling.per_prompt": 4}
FEW = {"data.init_args.train.limit": 400, **SIBLINGS}
"""So few prompts that each is met more than three times: an anchor that was replaced is met again."""


def judged(**changes: Any) -> Arm:
    """Change pairwise PPO with a generative judge: fields of the arm, or settings by their names."""
    fields = {name: changes.pop(name) for name in ("second_order", "attacked", "overlays") if name in changes}
    return Arm("GenerativeJudge", settings={name: changes[name] for name in changes}, **fields)


def anchors(kind: str, **arguments: Any) -> dict[str, Any]:
    """Name another source of anchors."""
    return {"model.init_args.anchors": json.dumps({"class_path": kind, "init_args": arguments})}


def shaped(kind: str) -> dict[str, Any]:
    """Read the verdict as another reward."""
    shapers = [{"class_path": f"prl.rewards.shapers.{name}"} for name in (kind, "MissingEOS")]
    return {"model.init_args.shaping": json.dumps(shapers)}


CHANGES: dict[str, Arm] = {
    "one order": judged(second_order="never"),
    "second order where near": judged(second_order="near"),
    "reward: log-odds": judged(**shaped("LogOdds")),
    "reward: mean of probabilities": judged(**shaped("MeanProbability")),
    "critic's λ 1": judged(**{"model.init_args.advantage.init_args.critic_lambda": 1.0}),
    "no warm-up of the critic": judged(**{"model.init_args.critic.warmup": 0}),
    "judge of pairs alone": judged(attacked=False),
    "anchors: 1 sample of the start": judged(**anchors("ReferenceSamples", count=1)),
    "anchors: 4 samples of the start": judged(**anchors("ReferenceSamples", count=4)),
    "anchors: best of 8": judged(),
    "anchors: earlier policy": judged(**anchors("PreviousPolicy", every=10)),
    "400 prompts": judged(**FEW),
    "400 prompts, anchor bank": judged(**anchors("AnchorBank"), **FEW),
}
SHARED = {WHOLE: WHOLE, "group baseline": "GRPO, win rates"}
"""Arms that are those of `experiments.policies`, with its runs."""
RESCALED = ("reward: log-odds",)
BANK = "400 prompts, anchor bank"
BEST_OF_8 = "anchors: best of 8"


def best_of_8(judge: int) -> Path:
    """Write the training prompts with the best of eight samples of the start, chosen by a judge, as anchors."""
    path = policies.OUT / f"best_of_8.{judge}.jsonl"
    if not path.exists():
        from prl.cli.commands.anchors import main

        stages = ["--policy", str(QUICKSTART / "supervised" / "model"), "--judge", str(reward_model("judge", judge))]
        prompts = ["--prompts", str(QUICKSTART / "world" / "prompts.train.jsonl"), "--output", str(path)]
        main([*stages, *prompts, "--samples", "8", "--max_new_tokens", "12", "--batch_size", "512"])
    return path


def coef_of(name: str) -> float:
    """Return the KL weight of an arm: its own where rewards have another scale, else that of pairwise PPO."""
    return tuned(name, CHANGES[name]) if name in RESCALED else tuned(WHOLE, ARMS[WHOLE])


def run(variant: str, seed: int) -> dict[str, Any]:
    """Make one run; its variant names the change and the judge."""
    name, _, number = variant.partition(" | judge ")
    if name in SHARED:
        line = policies.line(f"{SHARED[name]} | judge {number}", seed)
        return {key: value for key, value in line.items() if key not in ("variant", "seed")}  # it has names here
    arm = CHANGES[name]
    if name == BEST_OF_8:
        arm = judged(**{"data.init_args.train.path": best_of_8(int(number))})
    return train(name, arm, int(number), seed, coef_of(name))


def main() -> None:
    """Run what is missing, then write tables and figure of all runs that are there."""
    arms = [*SHARED, *CHANGES]
    variants = [f"{name} | judge {judge}" for judge in range(JUDGES) for name in arms]
    options = run_options(__doc__, str(policies.OUT), variants)
    lines = missing_runs(RESULTS, options.wanted, run)
    bank = difference_table(lines, BANK, [BANK.partition(",")[0]])
    draw_differences(differences(lines, WHOLE, arms[1:]), WHOLE, IMAGES / "ablations.png")
    search = search_table(read_rows(policies.TUNING), "gold", RESCALED)
    publish("ablations", policy_tables(lines, arms), "\n".join(bank), every_run(lines, "gold"), search)


if __name__ == "__main__":
    main()
