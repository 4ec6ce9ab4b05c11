"""Every method of configs/methods on the quickstart's world: several seeds of each, measured against the truth.

Takes a finished quickstart (`prl quickstart --out runs/quickstart`) and a Bradley-Terry model beside it
(`configs/quickstart/bradley_terry.yaml`). All runs start from the same supervised policy and the same reward models; a
seed decides draws, batches and new weights. Gold quality and win rate are those of the world, not of any judge. A run
that is in the results file already is not repeated.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import missing_runs, table

MODEL, RATE = "--model.init_args.", "optimization.learning_rate"
COLUMNS = {
    **{"gold": ("gold quality", 3), "win_rate": ("win rate", 3), "kl": ("KL, nats", 2), "length": ("tokens", 2)},
    "accuracy": ("implicit accuracy", 3),
}


@dataclass(frozen=True)
class Method:
    """A config of configs/quickstart, the overlay of configs/methods on top of it, and settings on top of both."""

    config: str
    overlay: str | None = None
    settings: tuple[str, ...] = ()


METHODS = {
    "Pairwise-RL": Method("pairwise_ppo"),
    "GRPO": Method("pairwise_ppo", "grpo"),
    "PAR": Method("pairwise_ppo", "par"),
    "DPO": Method("preference", "dpo"),
    "DPO, beta 1": Method("preference", "dpo", (f"{MODEL}objective.init_args.beta", "1.0", f"{MODEL}{RATE}", "1.0e-4")),
}


def arguments(method: Method, quickstart: Path) -> list[str]:
    """Name the configs of a method, and where the quickstart's models and data are."""
    online = method.config == "pairwise_ppo"
    start, data = str(quickstart / "supervised" / "model"), quickstart / "world"
    found = ["--config", f"configs/quickstart/{method.config}.yaml"]
    if method.overlay is not None:
        found += ["--config", f"configs/methods/{method.overlay}.yaml"]
    if online:
        reward = "bradley_terry" if method.overlay == "par" else "judge"
        found += [f"{MODEL}policy.path", start, f"{MODEL}judge_gate.mode", "off"]
        found += [f"{MODEL}reward.init_args.path", str(quickstart / reward / "model")]
    else:
        found += [f"{MODEL}model.path", start]
    rows = "prompts" if online else "pairs"
    for split in ("train", "validation"):
        found += [f"--data.init_args.{split}.path", str(data / f"{rows}.{split}.jsonl")]
    return [*found, *method.settings]


def measure(model: Path, quickstart: Path) -> dict[str, float]:
    """Measure a policy's samples against the truth, and how far it is from the start."""
    from prl.config import Sampling
    from prl.quickstart.evaluate import evaluate

    prompts, start = quickstart / "world" / "prompts.validation.jsonl", quickstart / "supervised" / "model"
    found = evaluate(model, prompts, Sampling(max_new_tokens=12), reference=start)
    length = sum(len(response) for _, response, _ in found.responses) / len(found.responses)
    return {"gold": found.gold.mean, "win_rate": found.win_rate.mean, "kl": found.kl, "length": length}


def train(method: Method, run: Path, seed: int, quickstart: Path, overrides: list[str]) -> dict[str, Any]:
    """Make one run and measure it."""
    from prl.cli.app import run_stage

    worked = time.process_time()
    cli = run_stage(
        [
            *("fit", *arguments(method, quickstart), "--run_dir", str(run), "--overwrite", "true"),
            *("--seed_everything", str(seed), "--data.init_args.seed", str(seed)),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *("--checkpoint.keep", "1", *overrides),
        ]
    )
    cpu_seconds = time.process_time() - worked
    found = {**measure(run / "model", quickstart), "cpu_seconds": cpu_seconds}
    if method.config == "preference":
        found["accuracy"] = float(cli.trainer.callback_metrics["val/accuracy"])
    return found


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", choices=METHODS, help="one method")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="after --: settings of every run")
    options = parser.parse_args()
    overrides = [each for each in options.overrides if each != "--"]
    names = [options.only] if options.only else list(METHODS)
    seeds = range(options.first_seed, options.first_seed + options.seeds)

    def one(name: str, seed: int) -> dict[str, Any]:
        return train(
            METHODS[name],
            options.out / f"{name.replace(', ', '_').replace(' ', '_')}.{seed}",
            seed,
            options.quickstart,
            overrides,
        )

    rows = missing_runs(options.out / "results.jsonl", ((name, seed) for seed in seeds for name in names), one)
    start = {
        "variant": "the start",
        "seed": 0,
        **measure(options.quickstart / "supervised" / "model", options.quickstart),
    }
    print(table([start, *rows], "method", COLUMNS))


if __name__ == "__main__":
    main()
