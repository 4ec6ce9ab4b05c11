"""Weights of a reward sum learnt in one run (LearnedMix, 2310.19007) beside a black-box search over them.

Runs of the quickstart's world by GRPO on three rules: `exact`, whether a response is right, which is the true reward;
`beginning`, how much of it is right before the first mistake, which goes along with that; and `length`, which does not.
The search tries weights of the two auxiliary rewards on a grid, a run each, and keeps those whose policy answers most
validation prompts rightly. Prints a table of all runs: right answers and true quality on the validation prompts, the
weights at the end, and what each row cost in runs. Runs that are there already are not repeated.
"""

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

MODEL = "--model.init_args."
NAMES = ("exact", "beginning", "length")


def beginning(prompt: Any, response: str, row: dict[str, Any]) -> float:
    """Compute the share of the answer that is right before the first mistake."""
    right = 0
    for found, expected in zip(response, row["answer"], strict=False):
        if found != expected:
            break
        right += 1
    return right / max(len(response), len(row["answer"]))


def length(prompt: Any, response: str, row: dict[str, Any]) -> float:
    """Compute how much of the length limit is used."""
    return len(response) / 12


def with_answers(split: str, options: argparse.Namespace) -> str:
    """Write the prompts of a split with their answers in a column, which rules read."""
    path = options.out / f"prompts.{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (options.quickstart / "world" / f"prompts.{split}.jsonl").read_text().splitlines()
    rows = [{"prompt": row["prompt"], "answer": row["anchor"]} for row in map(json.loads, lines)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def train(run: Path, weights: tuple[float, ...], learning_rate: float, options: argparse.Namespace) -> None:
    """Run GRPO on the three rules, validated at the end."""
    from prl.cli.app import run_stage

    rules = ("prl.rewards.rule.exact_match", "learned_mix.beginning", "learned_mix.length")
    by_name = dict(zip(NAMES, weights, strict=True))
    sources = {
        name: {"class_path": "RuleReward", "init_args": {"rule": rule}} for name, rule in zip(NAMES, rules, strict=True)
    }
    reward = {"class_path": "WeightedReward", "init_args": {"sources": sources, "weights": by_name}}
    settings = {"weights": by_name, "target": "exact", "learning_rate": learning_rate}
    mix = {"class_path": "prl.rewards.shapers.LearnedMix", "init_args": settings}
    run_stage(
        [
            *("fit", "--config", "configs/quickstart/pairwise_ppo.yaml", "--config", "configs/methods/grpo.yaml"),
            *("--run_dir", str(run), "--overwrite", "true", "--seed_everything", str(options.seed)),
            *("--trainer.val_check_interval", str(options.iterations), f"{MODEL}iterations", str(options.iterations)),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *(f"{MODEL}policy.path", str(options.quickstart / "supervised" / "model")),
            *(f"{MODEL}reward", json.dumps(reward), f"{MODEL}shaping", json.dumps([mix])),
            *("--data.init_args.train.path", with_answers("train", options)),
            *("--data.init_args.validation.path", with_answers("validation", options)),
        ]
    )


def figures(run: Path) -> dict[str, Any]:
    """Measure the policy of a run on the validation prompts, and read the weights that it ended with."""
    from prl.checkpoints import sharded
    from prl.checkpoints.files import LAST
    from prl.evaluation.policy.validation_log import ValidationLog
    from prl.quickstart.world import gold_quality

    log = ValidationLog(run)
    rows = log.rows(log.read()[-1]["batch"])
    gold = [gold_quality(row["prompt"][-1]["content"], row["response"].strip()) for row in rows]
    state = sharded.read(run / "checkpoints" / LAST)["run_state"]["shaping.0"]
    return {
        "right": statistics.fmean(each == 1 for each in gold),
        "quality": statistics.fmean(gold),
        "weights": state["weights"],
    }


def main() -> None:
    """Make the runs that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/learned_mix"))
    parser.add_argument("--iterations", type=int, default=45)
    parser.add_argument(
        "--grid", type=float, nargs="+", default=[0.0, 0.5, 1.0], help="weights of either auxiliary reward"
    )
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of the weights that are learnt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    grid = list(product(options.grid, repeat=2))
    wanted = {f"grid_{along:g}_{against:g}": ((1.0, along, against), 0.0) for along, against in grid}
    wanted["learnt"] = ((1.0, 1.0, 1.0), options.learning_rate)
    found = {}
    for name, (weights, learning_rate) in wanted.items():
        if not (options.out / name / "model").is_dir():
            train(options.out / name, weights, learning_rate, options)
        found[name] = figures(options.out / name)
    print(f"| run | right | quality | {' | '.join(NAMES)} |\n|{'---|' * (3 + len(NAMES))}")
    for name, line in found.items():
        shares = [f"{line[each]:.3f}" for each in ("right", "quality")]
        weights = [f"{line['weights'][each]:.2f}" for each in NAMES]
        print(f"| {' | '.join([name, *shares, *weights])} |")
    best = max((name for name in found if name != "learnt"), key=lambda name: found[name]["right"])
    print(f"search: {len(grid)} runs, best {best}; learnt: 1 run")


if __name__ == "__main__":
    main()
