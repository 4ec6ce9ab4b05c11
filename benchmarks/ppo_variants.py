"""Pairwise PPO with each kind of anchor, and Bradley-Terry PPO, on the quickstart's world: several seeds of each.

Takes a finished quickstart (`prl quickstart --out runs/quickstart`) and a Bradley-Terry model beside it
(`configs/quickstart/bradley_terry.yaml`). All runs start from the same supervised policy and the same reward models; a
seed decides draws, batches and the critic. Gold quality and win rate are those of the world, not of any judge. A run
that is in the results file already is not repeated.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from runs import missing_runs, table

MODEL = "--model.init_args."
COLUMNS = {
    "gold": ("gold quality", 3),
    "win_rate": ("win rate", 3),
    "kl": ("KL, nats", 2),
    "cpu_seconds": ("CPU seconds", 0),
}
SIBLINGS = ("--data.init_args.batch_size", "32", f"{MODEL}sampling.per_prompt", "4")
"""As many rollouts an iteration as the others have, four to a prompt."""
FEW = ("--data.init_args.train.limit", "400")
"""So few prompts that each is met more than three times: an anchor that was replaced is met again."""


def variants(quickstart: Path, out: Path) -> dict[str, list[str]]:
    """Name -> overrides of configs/quickstart/pairwise_ppo.yaml."""

    def anchors(kind: str, **arguments: Any) -> list[str]:
        return [f"{MODEL}anchors", json.dumps({"class_path": kind, "init_args": arguments})]

    def judge(kind: str) -> list[str]:
        folder = str(quickstart / "bradley_terry" / "model")
        return [f"{MODEL}reward", json.dumps({"class_path": kind, "init_args": {"path": folder}})]

    return {
        "judge, dataset anchors": [],
        "judge, best of 8": ["--data.init_args.train.path", str(out / "best_of_8.jsonl")],
        "judge, previous policy": anchors("PreviousPolicy", every=10),
        "judge, round robin of 4": [*anchors("RoundRobin"), *SIBLINGS],
        "judge, dataset anchors, 400 prompts": [*FEW, *SIBLINGS],
        "judge, anchor bank, 400 prompts": [*anchors("AnchorBank"), *FEW, *SIBLINGS],
        "Bradley-Terry, dataset anchors": judge("BradleyTerryJudge"),
        "Bradley-Terry PPO (scalar)": judge("ScalarReward"),
    }


def train(name: str, overrides: list[str], seed: int, quickstart: Path, out: Path) -> dict[str, Any]:
    """One run, measured against the truth."""
    from prl.cli.app import run_stage
    from prl.config import Sampling
    from prl.quickstart.evaluate import evaluate

    run = out / f"{name.replace(' ', '_').replace(',', '')}.{seed}"
    prompts = quickstart / "world" / "prompts.validation.jsonl"
    start, worked = time.perf_counter(), time.process_time()
    run_stage(
        [
            *("fit", "--config", "configs/quickstart/pairwise_ppo.yaml", "--run_dir", str(run), "--overwrite", "true"),
            *("--seed_everything", str(seed), f"{MODEL}judge_gate.mode", "off"),
            *("--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"),
            *("--trainer.enable_model_summary", "false", "--checkpoint.keep", "1"),
            *(f"{MODEL}policy.path", str(quickstart / "supervised" / "model")),
            *(f"{MODEL}reward.init_args.path", str(quickstart / "judge" / "model")),
            *("--data.init_args.train.path", str(quickstart / "world" / "prompts.train.jsonl")),
            *("--data.init_args.validation.path", str(prompts), "--data.init_args.seed", str(seed)),
            *overrides,
        ]
    )
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - worked
    sampling = Sampling(max_new_tokens=12)
    found = evaluate(run / "model", prompts, sampling, reference=quickstart / "supervised" / "model")
    return {
        **{"gold": found.gold.mean, "win_rate": found.win_rate.mean, "kl": found.kl},
        **{"seconds": seconds, "cpu_seconds": cpu_seconds},
    }


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/ppo_variants"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="variants whose name contains this")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    best = options.out / "best_of_8.jsonl"
    if not best.exists():
        from prl.cli.commands.anchors import main as write_anchors

        stages = [f"{options.quickstart}/{stage}/model" for stage in ("supervised", "judge")]
        prompts = f"{options.quickstart}/world/prompts.train.jsonl"
        arguments = ["--policy", stages[0], "--judge", stages[1], "--prompts", prompts, "--output", str(best)]
        write_anchors([*arguments, "--samples", "8", "--max_new_tokens", "12", "--batch_size", "512"])
    kinds = {name: v for name, v in variants(options.quickstart, options.out).items() if (options.only or "") in name}
    rows = missing_runs(
        options.out / "results.jsonl",
        ((name, seed) for seed in range(options.seeds) for name in kinds),
        lambda name, seed: train(name, kinds[name], seed, options.quickstart, options.out),
    )
    print(table(rows, "reward, anchors", COLUMNS))


if __name__ == "__main__":
    main()
