"""Whose responses are paired: mixes of generators with all else fixed (More is Less, 2504.02193).

Takes a finished quickstart at runs/quickstart with a Bradley-Terry model beside it. `self` is its supervised policy,
which all runs train; `stronger` its PPO policy; `peer` a supervised policy of another seed, trained here first. Each
mix takes chosen from one and rejected from another, the best and the worst of six responses by the Bradley-Terry model;
the pool has two of each policy. Prompts and settings of DPO are the same. The world knows no harm, so nothing here is
safety: beside gold quality there are the share of worthless responses (quality 0) and of answers to another task, how
far the policy moved, and how well chosen and rejected are told apart by their tokens. A run that is in the results file
already is not repeated.
"""

import json
from pathlib import Path
from typing import Any

from methods import Method, arguments
from runs import make_missing, run_options, table

QUICKSTART = Path("runs/quickstart")
START = QUICKSTART / "supervised" / "model"
MIXES = {
    "self, self": ("self", "self"),
    "peer, peer": ("peer", "peer"),
    "stronger, stronger": ("stronger", "stronger"),
    "peer, self": ("peer", "self"),
    "self, peer": ("self", "peer"),
    "stronger, self": ("stronger", "self"),
    "pool, pool": ("pool", "pool"),
}
"""Mix -> whose response is chosen, and whose is rejected."""
PROMPTS, SAMPLES, STEPS = 2000, 6, 300
COLUMNS = {
    **{"gold": ("gold quality", 3), "worthless": ("worthless", 3), "off_task": ("another task", 3), "kl": ("KL", 2)},
    **{"pairs": ("pairs", 0), "same_source": ("one source", 2), "separability": ("told apart", 3)},
}


def measure(model: Path) -> dict[str, float]:
    """Measure a policy's samples against the truth, and how far it is from the start."""
    from prl.config import Sampling
    from prl.quickstart.evaluate import evaluate
    from prl.quickstart.world import FAMILIES, gold_quality, right_answer

    prompts = QUICKSTART / "world" / "prompts.validation.jsonl"
    found = evaluate(model, prompts, Sampling(max_new_tokens=12), reference=START)

    def others(prompt: str) -> set[str]:
        task, _, argument = prompt.partition(" ")
        if task == "add":
            return set()
        answers = {right_answer(f"{name} {argument}") for name in FAMILIES if name not in ("add", task)}
        return {*answers, argument} - {right_answer(prompt)}

    texts = [(prompt, response) for prompt, response, _ in found.responses]
    worthless = sum(gold_quality(prompt, text) == 0 for prompt, text in texts) / len(texts)
    off_task = sum(text in others(prompt) for prompt, text in texts) / len(texts)
    return {"gold": found.gold.mean, "worthless": worthless, "off_task": off_task, "kl": found.kl}


def fitted(run: Path, seed: int, settings: list[str]) -> Path:
    """Make a run unless its model is there; return the model."""
    from prl.cli.app import run_stage

    if not (run / "model").exists():
        run_stage(
            [
                *("fit", *settings[:2], "--run_dir", str(run), "--overwrite", "true", "--checkpoint.keep", "1"),
                *("--seed_everything", str(seed), "--data.init_args.seed", str(seed)),
                *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", *settings[2:]),
            ]
        )
    return run / "model"


def peer(out: Path) -> Path:
    """Train the peer, unless it is there, as the quickstart trains its supervised policy."""
    world = QUICKSTART / "world"
    settings = ["--config", "configs/quickstart/supervised.yaml"]
    settings += ["--model.init_args.model.tokenizer", str(world / "tokenizer")]
    for split in ("train", "validation"):
        settings += [f"--data.init_args.{split}.path", str(world / f"demonstrations.{split}.jsonl")]
    return fitted(out / "peer", 1000, settings)


def pairs_of(name: str, seed: int, out: Path) -> Path:
    """Make the pairs of a mix, unless they are there."""
    from prl.cli.commands.pairs import main

    path = out / f"{name.replace(', ', '_')}.{seed}.jsonl"
    if not path.exists():
        chosen, rejected = MIXES[name]
        names = [each for each in ("peer", "stronger") if {"pool", each} & {chosen, rejected}]
        models = [(each, peer(out) if each == "peer" else QUICKSTART / "ppo" / "model") for each in names]
        reward = {"class_path": "ScalarReward", "init_args": {"path": str(QUICKSTART / "bradley_terry" / "model")}}
        rule = {"class_path": "BySource", "init_args": {"chosen": chosen, "rejected": rejected}}
        samples = SAMPLES // 3 if chosen == "pool" else SAMPLES
        main(
            [
                *("--policy", str(START), "--prompts", str(QUICKSTART / "world" / "prompts.train.jsonl")),
                *("--output", str(path), "--reward", json.dumps(reward), "--rule", json.dumps(rule)),
                *(["--others", *(f"{each}={model}" for each, model in models)] if models else []),
                *("--samples", str(samples), "--max_new_tokens", "12", "--batch_size", "240"),
                *("--limit", str(PROMPTS), "--seed", str(seed)),
            ]
        )
    return path


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make pairs, train on them, and measure the policy."""
    pairs = pairs_of(name, seed, out)
    about = json.loads(pairs.with_suffix(".provenance.json").read_text(encoding="utf-8"))
    more = ["--data.init_args.train.path", str(pairs), "--trainer.max_steps", str(STEPS)]
    more += ["--trainer.val_check_interval", str(STEPS)]
    settings = [*arguments(Method("preference", "dpo"), QUICKSTART), *more, *overrides]
    model = fitted(pairs.with_suffix(""), seed, settings)
    mix = about["mix"]
    return {
        **measure(model),
        "pairs": about["counts"]["pairs"],
        "same_source": 1.0 if mix["same_source"] is None else mix["same_source"]["share"],
        "separability": mix["separability"]["accuracy"],
    }


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/more_is_less", MIXES)
    rows = make_missing(options, train)
    policies = {"the start": START, "stronger": QUICKSTART / "ppo" / "model", "peer": options.out / "peer" / "model"}
    starts = [{"variant": name, "seed": 0, **measure(model)} for name, model in policies.items() if model.exists()]
    print(table([*starts, *rows], "chosen, rejected", COLUMNS))


if __name__ == "__main__":
    main()
