"""Does the gap between judges warn in time? Runs of the quickstart's world that are over-optimised on purpose.

Pairwise PPO without a KL penalty, and with the quickstart's for comparison, validated every few iterations by the
training judge, by a held-out one (the Bradley-Terry model of `configs/quickstart/bradley_terry.yaml`) and, for this
table alone, by the world's true quality. Prints true qualities, each with its batch in brackets: before training, the
best, when the alarm comes, of what `prl frontier` would ship with the alarm and without, and the last; and for several
limits of the gap the batch of the alarm. Runs that are there already are not repeated.
"""

import argparse
import json
from pathlib import Path
from typing import Any

MODEL = "--model.init_args."
LIMITS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)


def train(run: Path, kl_coef: str, seed: int, quickstart: Path) -> None:
    """One run with a validation before the first batch and after every fifth."""
    from prl.cli.app import run_stage

    world = quickstart / "world"
    heldout = {"class_path": "BradleyTerryJudge", "init_args": {"path": str(quickstart / "bradley_terry" / "model")}}
    run_stage(
        [
            *("fit", "--config", "configs/quickstart/pairwise_ppo.yaml", "--run_dir", str(run), "--overwrite", "true"),
            *("--seed_everything", str(seed), "--data.init_args.seed", str(seed), f"{MODEL}judge_gate.mode", "off"),
            *("--trainer.num_sanity_val_steps=-1", "--trainer.val_check_interval", "5"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *("--checkpoint.every_n_batches", "5", "--checkpoint.keep", "99"),
            *(f"{MODEL}policy.path", str(quickstart / "supervised" / "model")),
            *(f"{MODEL}reward.init_args.path", str(quickstart / "judge" / "model")),
            *(f"{MODEL}heldout_judge", json.dumps(heldout), f"{MODEL}kl.coef", kl_coef),
            *("--data.init_args.train.path", str(world / "prompts.train.jsonl")),
            *("--data.init_args.validation.path", str(world / "prompts.validation.jsonl")),
        ]
    )


def with_gold(run: Path) -> list[dict[str, Any]]:
    """Read the validations of a run, each with the true quality of its responses."""
    from prl.evaluation.policy.validation_log import ValidationLog
    from prl.quickstart.world import gold_quality

    files = ValidationLog(run)
    found = []
    for line in files.read():
        rows = files.rows(line["batch"])
        gold = [gold_quality(row["prompt"][-1]["content"], row["response"].strip()) for row in rows]
        found.append({**line, "gold": sum(gold) / len(gold)})
    return found


def shipped(lines: list[dict[str, Any]], limit: float | None) -> dict[str, Any]:
    """Find the validation that `prl frontier` names, with the alarm at a limit, or without any."""
    from prl.evaluation.policy.frontier import best_checkpoint, run_points

    judged = [{**line, "goodhart_alarm": limit is not None and line["goodhart_gap_lo"] > limit} for line in lines]
    batch = best_checkpoint({"run": run_points(judged)})[1].batch
    return next(line for line in lines if line["batch"] == batch)


def first_alarm(lines: list[dict[str, Any]], limit: float) -> dict[str, Any] | None:
    """Find the first validation whose gap lies above a limit with its whole interval."""
    return next((line for line in lines if line["goodhart_gap_lo"] > limit), None)


def told(line: dict[str, Any] | None) -> str:
    """Gold quality and batch of a validation."""
    return f"{line['gold']:.3f} ({line['batch']})" if line else "none"


def main() -> None:
    """Run what is missing, then print the tables."""
    from prl.config import Validation

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/over_optimisation"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    limit = Validation().gap_limit
    assert limit is not None
    columns = ["KL weight, seed", "start", "best", "at the alarm", "shipped", "shipped, no alarm", "last"]
    columns += [f"alarm at {each}" for each in LIMITS]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for kl_coef in ("0", "0.03"):
        for seed in range(options.seeds):
            run = options.out / f"kl{kl_coef}.{seed}"
            if not (run / "model").is_dir():
                train(run, kl_coef, seed, options.quickstart)
            lines = with_gold(run)
            cells = [f"{kl_coef}, {seed}", f"{lines[0]['gold']:.3f}", told(max(lines, key=lambda line: line["gold"]))]
            cells += [told(first_alarm(lines, limit)), told(shipped(lines, limit)), told(shipped(lines, None))]
            cells += [told(lines[-1])]
            alarms = [first_alarm(lines, each) for each in LIMITS]
            cells += [str(alarm["batch"]) if alarm else "none" for alarm in alarms]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
