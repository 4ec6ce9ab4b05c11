"""Compare signals that a policy has begun to exploit its judge: how late they come, how often without a cause.

The protocol is docs/results/claims/alarms.md, fixed before the first run. Needs runs/quickstart with its world and
supervised stage. Judges learn from PAIRS pairs each, too few, so that policies come to exploit them; the held-out
judge of a run learnt from as many others. Runs without a KL penalty are there to be over-optimised, runs with one to
show false alarms. Each run is a line in experiments/results/alarms.jsonl and is not repeated.

    python -m experiments.alarms --seeds 4
"""

from pathlib import Path
from typing import Any

from benchmarks.online_inputs import fit_model, read_rows, write_rows
from benchmarks.runs import missing_runs, run_options
from experiments.detection import alarm_table
from experiments.pages import publish
from experiments.training import QUICKSTART, as_arguments
from experiments.verdicts import every_run

RESULTS = Path("experiments/results/alarms.jsonl")
OUT = Path("runs/claims/alarms")
JUDGES, PAIRS = 3, 2000
COEFS = (0.0, 0.03)
ITERATIONS, EVERY = 90, 3
SIGNALS = (
    "goodhart_gap",
    "goodhart_gap_lo",
    "win_rate",
    "win_rate_heldout",
    "win_rate_lc",
    "kl",
    "length",
    "order_gap",
)


def judge(number: int, *, heldout: bool) -> Path:
    """Train a judge on pairs that no other one learns from, unless it is there."""
    slot = 2 * number + heldout
    pairs = OUT / f"pairs.{slot}.jsonl"
    if not pairs.exists():
        write_rows(pairs, read_rows(QUICKSTART / "world" / "pairs.train.jsonl")[slot * PAIRS : (slot + 1) * PAIRS])
    settings = {
        "seed_everything": slot,
        "data.init_args.seed": slot,
        "data.init_args.train.path": pairs,
        "data.init_args.validation.path": QUICKSTART / "world" / "pairs.validation.jsonl",
        "model.init_args.model.path": QUICKSTART / "supervised" / "model",
    }
    config = ("--config", "configs/quickstart/generative_reward.yaml")
    return fit_model(OUT / f"judge.{slot}", *config, *as_arguments(settings))


def run(variant: str, seed: int) -> dict[str, Any]:
    """Train one policy, and note signals and true quality of every validation."""
    from prl.evaluation.policy.validation_log import ValidationLog
    from prl.quickstart.world import gold_quality

    weight, _, number = variant.partition(" | judge ")
    folder = OUT / f"{weight.replace(' ', '_')}.{number}.{seed}"
    heldout = "model.init_args.heldout_judge"
    settings = {
        "seed_everything": seed,
        "data.init_args.seed": seed,
        "trainer.num_sanity_val_steps": -1,
        "trainer.val_check_interval": EVERY,
        "model.init_args.iterations": ITERATIONS,
        "model.init_args.kl.coef": float(weight.rpartition(" ")[2]),
        "model.init_args.judge_gate.mode": "off",
        "model.init_args.policy.path": QUICKSTART / "supervised" / "model",
        "model.init_args.reward.init_args.path": judge(int(number), heldout=False),
        heldout: "GenerativeJudge",
        f"{heldout}.init_args.path": judge(int(number), heldout=True),
        "data.init_args.train.path": QUICKSTART / "world" / "prompts.train.jsonl",
        "data.init_args.validation.path": QUICKSTART / "world" / "prompts.validation.jsonl",
    }
    fit_model(folder, "--config", "configs/quickstart/pairwise_ppo.yaml", *as_arguments(settings))
    files, points = ValidationLog(folder), []
    for line in files.read():
        rows = files.rows(line["batch"])
        gold = [gold_quality(row["prompt"][-1]["content"], row["response"].strip()) for row in rows]
        point = {"batch": line["batch"], "gold": sum(gold) / len(gold)}
        points.append(point | {name: line[name] for name in SIGNALS if name in line})
    return {"judge": int(number), "coef": settings["model.init_args.kl.coef"], "points": points}


def main() -> None:
    """Run what is missing, then write the table of all runs that are there."""
    variants = [f"KL weight {coef} | judge {number}" for number in range(JUDGES) for coef in COEFS]
    options = run_options(__doc__, str(OUT), variants, seeds=4)
    lines = missing_runs(RESULTS, options.wanted, run)
    last = [{**line, **line["points"][-1]} for line in lines]
    publish("alarms", alarm_table(lines), "After the last iteration:", every_run(last, "gold"))


if __name__ == "__main__":
    main()
