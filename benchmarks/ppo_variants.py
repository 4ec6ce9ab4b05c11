"""Pairwise PPO with each kind of anchor, and Bradley-Terry PPO, on the quickstart's world: several seeds of each.

Takes a finished quickstart (`prl quickstart --out runs/quickstart`) and a Bradley-Terry model beside it
(`configs/quickstart/bradley_terry.yaml`). All runs start from the same supervised policy and the same reward models; a
seed decides draws, batches and the critic. Gold quality and win rate are those of the world, not of any judge. A run
that is in the results file already is not repeated.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % quantile of Student's t for the mean of so many runs."""
MODEL = "--model.init_args."
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
        **{"variant": name, "seed": seed, "gold": found.gold.mean, "win_rate": found.win_rate.mean, "kl": found.kl},
        **{"seconds": seconds, "cpu_seconds": cpu_seconds},
    }


def interval(values: list[float], digits: int = 3) -> str:
    """Mean and half width of its 95 % interval over runs."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Variants down, figures across, as Markdown."""
    by_name = defaultdict(list)
    for row in rows:
        by_name[row["variant"]].append(row)
    lines = [
        "| reward, anchors | runs | gold quality | win rate | KL, nats | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in by_name.items():
        cells = [interval([run[key] for run in runs]) for key in ("gold", "win_rate")]
        cells += [interval([run["kl"] for run in runs], 2), interval([run["cpu_seconds"] for run in runs], 0)]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/ppo_variants"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="variants whose name contains this")
    options = parser.parse_args()
    results = options.out / "results.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    best = options.out / "best_of_8.jsonl"
    if not best.exists():
        from prl.cli.commands.anchors import main as write_anchors

        stages = [f"{options.quickstart}/{stage}/model" for stage in ("supervised", "judge")]
        prompts = f"{options.quickstart}/world/prompts.train.jsonl"
        arguments = ["--policy", stages[0], "--judge", stages[1], "--prompts", prompts, "--output", str(best)]
        write_anchors([*arguments, "--samples", "8", "--max_new_tokens", "12", "--batch_size", "512"])
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["variant"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for name, overrides in variants(options.quickstart, options.out).items():
            if (name, seed) in done or (options.only and options.only not in name):
                continue
            rows.append(train(name, overrides, seed, options.quickstart, options.out))
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
