"""Does the gap between judges warn in time? Runs of the quickstart's world that are over-optimised on purpose.

Pairwise PPO without a KL penalty, and with the quickstart's for comparison, validated every few iterations by the
training judge, by a held-out one (the Bradley-Terry model of `configs/quickstart/bradley_terry.yaml`) and, for this
table alone, by the world's true quality. Prints for several limits of the gap when the alarm comes, beside the batch
from which the true quality falls, and what `prl frontier` would ship. Runs that are there already are not repeated.
"""

import argparse
import json
from pathlib import Path
from typing import Any

MODEL = "--model.init_args."
LIMITS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)


def train(run: Path, kl_coef: str, seed: int, quickstart: Path) -> None:
    """One run with a validation before the first batch and after every fifth."""
    from prl.cli import run_stage

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
            *(f"{MODEL}judge.init_args.path", str(quickstart / "judge" / "model")),
            *(f"{MODEL}heldout_judge", json.dumps(heldout), f"{MODEL}reward.kl_coef", kl_coef),
            *("--data.init_args.train.path", str(world / "prompts.train.jsonl")),
            *("--data.init_args.validation.path", str(world / "prompts.validation.jsonl")),
        ]
    )


def with_gold(run: Path) -> list[dict[str, Any]]:
    """The validations of a run, each with the true quality of its responses."""
    from prl.evaluation.validation_log import ValidationLog
    from prl.quickstart.world import gold_quality

    files = ValidationLog(run)
    found = []
    for line in files.read():
        rows = files.rows(line["batch"])
        gold = [gold_quality(row["prompt"][-1]["content"], row["response"].strip()) for row in rows]
        found.append({**line, "gold": sum(gold) / len(gold)})
    return found


def shipped(run: Path) -> int:
    """The batch that `prl frontier` names."""
    from prl.evaluation.frontier import run_points, to_ship
    from prl.evaluation.validation_log import ValidationLog

    return to_ship({run.name: run_points(ValidationLog(run).read())})[1].batch


def first_alarm(lines: list[dict[str, Any]], limit: float) -> int | None:
    """The batch of the first validation whose gap lies above a limit for sure."""
    return next((line["batch"] for line in lines if line["goodhart_gap_lo"] > limit), None)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/over_optimisation"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("| KL weight, seed | gold: start | best (batch) | last | shipped (batch) |", end="")
    print("".join(f" alarm at {limit} |" for limit in LIMITS) + "\n|" + "---|" * (5 + len(LIMITS)))
    for seed in range(options.seeds):
        for kl_coef in ("0", "0.03"):
            run = options.out / f"kl{kl_coef}.{seed}"
            if not (run / "model").is_dir():
                train(run, kl_coef, seed, options.quickstart)
            lines = with_gold(run)
            best, ship = max(lines, key=lambda line: line["gold"]), shipped(run)
            chosen = next(line for line in lines if line["batch"] == ship)
            cells = [f"{kl_coef}, {seed}", f"{lines[0]['gold']:.3f}", f"{best['gold']:.3f} ({best['batch']})"]
            cells += [f"{lines[-1]['gold']:.3f}", f"{chosen['gold']:.3f} ({ship})"]
            cells += [str(first_alarm(lines, limit) or "none") for limit in LIMITS]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
