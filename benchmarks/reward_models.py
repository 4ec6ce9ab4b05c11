"""Objectives of reward models on the quickstart's world, whose labels are wrong for a quarter of the pairs.

Takes a finished quickstart at runs/quickstart. Scalar reward models learn from the first 20,000 of its pairs in the
same number of steps, by the overlays of configs/methods; `strength` gets what three Bradley-Terry models of other seeds
say of the pairs, MetaRM unlabelled responses of the quickstart's final policy, inverse reinforcement learning no labels
but right answers and samples of the first policy. Accuracy is measured against the truth: on the world's validation
pairs, and on pairs of samples of the final policy, which are closer to each other (temperature 1.5, so that enough of
them differ). A run that is in the results file already is not repeated.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from online_inputs import QUICKSTART, fit_model, read_rows, write_rows

from runs import make_missing, run_options, table

MODEL, OUT = "--model.init_args.", Path("runs/reward_models")
PAIRS, FLIPPED, JUDGES = 20_000, 0.25, 3
STEPS = ("--trainer.max_steps", "800", "--trainer.val_check_interval", "400")
VARIANTS = {
    "Bradley-Terry": None,
    "contrastive": "contrastive",
    "strength, margin": "preference_strength",
    "strength, labels flipped": "preference_strength",
    "MetaRM": "meta_rm",
    "inverse RL": "irl",
}
COLUMNS = {"accuracy": ("accuracy, validation pairs", 3), "shifted": ("accuracy, pairs of the final policy", 3)}


def flipped_pairs() -> Path:
    """Write the pairs with a share of labels wrong."""
    if not (path := OUT / "pairs.jsonl").exists():
        rows, draw = read_rows(QUICKSTART / "world" / "pairs.train.jsonl")[:PAIRS], Random(0)
        for row in rows:
            if draw.random() < FLIPPED:
                row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        write_rows(path, rows)
    return path


def voted_pairs(*, flip: bool) -> Path:
    """Write the pairs with the votes of Bradley-Terry models, and labels flipped where the votes are against them."""
    from prl.cli.entry import main

    path = OUT / ("flipped.jsonl" if flip else "voted.jsonl")
    if not path.exists():
        judges = [str(fit(f"judge.{100 + n}", None, 100 + n, flipped_pairs(), ())) for n in range(JUDGES)]
        own = ["--flip", str(FLIPPED)] if flip else []
        main(["strength", str(flipped_pairs()), "--judges", *judges, *own, "--output", str(path)])
    return path


def samples(policy: str, name: str, *args: str) -> Path:
    """Write pairs or lists of a policy's samples by `prl pairs`."""
    from prl.cli.entry import main

    if not (path := OUT / name).exists():
        OUT.mkdir(parents=True, exist_ok=True)
        own = ["--policy", str(QUICKSTART / policy / "model"), "--max_new_tokens", "12", "--output", str(path)]
        main(["pairs", *own, *args])
    return path


def unlabelled() -> Path:
    """Write lists of samples of the final policy; their order means nothing to MetaRM."""
    prompts, judge = QUICKSTART / "world" / "prompts.train.jsonl", QUICKSTART / "judge" / "model"
    own = ("--prompts", str(prompts), "--judge", str(judge), "--rule", "BestOfN", "--lists", "--samples", "4")
    return samples("ppo", "unlabelled.jsonl", *own, "--temperature", "1.5")


def demonstrated() -> Path:
    """Write pairs of a right answer and a sample of the first policy."""
    rows = read_rows(QUICKSTART / "world" / "prompts.train.jsonl")
    asked = [{"prompt": r["prompt"], "answer": r["anchor"], "more": {"demo": [r["anchor"]]}} for r in rows]
    prompts = write_rows(OUT / "demonstrations.jsonl", asked)
    rule = {"class_path": "BySource", "init_args": {"chosen": "demo", "rejected": "self"}}
    own = ("--prompts", str(prompts), "--written", "more", "--samples", "1", "--rule", json.dumps(rule))
    return samples("supervised", "demonstrated.jsonl", *own, "--reward", "RuleReward", "--keep_unfinished")


def shifted_pairs() -> list[dict[str, Any]]:
    """Read pairs of samples of the final policy to the validation prompts, whose true quality differs."""
    prompts = str(QUICKSTART / "world" / "prompts.validation.jsonl")
    truth = json.dumps({"class_path": "RuleReward", "init_args": {"rule": "world_rules.quality"}})
    own = ("--prompts", prompts, "--reward", truth, "--rule", "AllPairs", "--samples", "4", "--temperature", "1.5")
    return read_rows(samples("ppo", "shifted.jsonl", *own))


def fit(name: str, overlay: str | None, seed: int, pairs: Path, settings: tuple[str, ...]) -> Path:
    """Train one reward model, unless it is there."""
    configs = ["--config", "configs/quickstart/bradley_terry.yaml"]
    configs += ["--config", f"configs/methods/{overlay}.yaml"] if overlay else []
    # Nothing is validated, but validation rows too must have the columns that the objective reads.
    held_out = pairs if overlay == "preference_strength" else QUICKSTART / "world" / "pairs.validation.jsonl"
    rows = ["--data.init_args.train.path", str(pairs), "--data.init_args.validation.path", str(held_out)]
    own = ["--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--trainer.limit_val_batches", "0"]
    return fit_model(OUT / name, *configs, *rows, *own, *STEPS, *settings)


def accuracy(model: Path, rows: list[dict[str, Any]]) -> float:
    """Compute the share of pairs whose better response has the higher reward; ties count half."""
    from prl.rewards.scalar import ScalarReward

    source = ScalarReward(str(model))
    source.load()
    # A file of the world has plain texts, one of `prl pairs` messages.
    asked = (row["prompt"] for row in rows)
    prompts = [tuple(each) if isinstance(each, list) else ({"role": "user", "content": each},) for each in asked]
    better, worse = (source.rewards(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
    return float(((better > worse).float() + 0.5 * (better == worse).float()).mean())


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Train and measure one variant."""
    settings: tuple[str, ...] = ()
    if name.startswith("strength"):
        pairs = voted_pairs(flip=name.endswith("flipped"))
        settings = (f"{MODEL}objective.init_args.margin_coef", "0.0") if name.endswith("flipped") else ()
    elif name == "inverse RL":
        pairs = demonstrated()
    else:
        pairs = flipped_pairs()
    if name == "MetaRM":
        settings = (f"{MODEL}unlabelled.path", str(unlabelled()))
    model = fit(
        f"{name.replace(', ', '_').replace(' ', '_')}.{seed}", VARIANTS[name], seed, pairs, (*settings, *overrides)
    )
    rows = read_rows(QUICKSTART / "world" / "pairs.validation.jsonl")
    return {"accuracy": accuracy(model, rows), "shifted": accuracy(model, shifted_pairs())}


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, str(OUT), VARIANTS)
    print(f"{len(shifted_pairs())} pairs of the final policy")
    print(table(make_missing(options, train), "objective", COLUMNS))


if __name__ == "__main__":
    main()
