"""Does a calculator help a reward model? Claims about sums of three-digit numbers, right and wrong, made from a seed.

A small language model learns from pairs of a right and a wrong sum, once by itself (Bradley-Terry) and once with traces
that call a calculator (Themis, configs/methods/themis.yaml), in as many steps of as many pairs. Both are measured on
sums that are in no training pair, the second with its calculator, and without it. A run that is in the results file
already is not repeated.
"""

import json
import random
from pathlib import Path
from typing import Any

from runs import missing_runs, run_options, table

CONFIGS = Path(__file__).parents[1] / "configs"
PAIRS = {"train": 6000, "validation": 250}
MODEL = {
    **{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 192, "tie_word_embeddings": True},
}
SETTINGS = {
    **{"trainer.max_steps": 2000, "trainer.val_check_interval": 1000, "trainer.enable_progress_bar": "false"},
    **{"checkpoint.every_n_batches": 2000, "data.init_args.batch_size": 32},
    **{"model.init_args.optimization.learning_rate": 3e-3, "model.init_args.max_length": 160},
}
VARIANTS = ("Bradley-Terry", "with calls of a calculator")
COLUMNS = {
    "accuracy": ("accuracy", 3),
    "without": ("without the calculator", 3),
    "calls": ("calls a response", 2),
    "right_calls": ("calls with the prompt's sum", 3),
}


def claims(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Make pairs of claims; no sum of one split is in the other."""
    draw = random.Random(seed)
    sums = draw.sample([(a, b) for a in range(100, 1000) for b in range(100, 1000)], sum(PAIRS.values()))
    rows = []
    for a, b in sums:
        wrong = a + b + draw.choice((-100, -10, -1, 1, 10, 100))
        claimed = {"chosen": (a + b, "same"), "rejected": (wrong, "other")}
        call = {"action": "sum", "input": f"{a}+{b}", "observation": str(a + b)}
        texts = {side: str(number) for side, (number, _) in claimed.items()}
        traces = {f"{side}_trace": [call, {"text": word}] for side, (_, word) in claimed.items()}
        rows.append({"prompt": f"{a}+{b}", **texts, **traces})
    return {"train": rows[: PAIRS["train"]], "validation": rows[PAIRS["train"] :]}


def write_claims(folder: Path, seed: int) -> None:
    """Write the pairs of both splits, and the tokenizer."""
    from prl.quickstart.tokenizer import build_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in claims(seed).items():
        (folder / f"claims.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build_tokenizer().save_pretrained(folder / "tokenizer")


def train(name: str, seed: int, data: Path, folder: Path, overrides: list[str]) -> None:
    """Train one variant through the command line."""
    from prl.cli.app import run_stage

    overlay = ["--config", str(CONFIGS / "methods" / "themis.yaml")] if name == VARIANTS[1] else []
    args = ["fit", "--config", str(CONFIGS / "quickstart" / "bradley_terry.yaml"), *overlay, "--run_dir", str(folder)]
    model = {"path": None, "config": MODEL, "tokenizer": str(data / "tokenizer")}
    args += ["--model.init_args.model", json.dumps(model), "--seed_everything", str(seed), "--overwrite", "true"]
    for split in PAIRS:
        args += [f"--data.init_args.{split}.path", str(data / f"claims.{split}.jsonl")]
    args += ["--data.init_args.seed", str(seed)]
    run_stage([*args, *(each for key, value in SETTINGS.items() for each in (f"--{key}", str(value))), *overrides])


def measure(reward: Any, rows: list[dict[str, Any]]) -> float:
    """Compute the share of pairs whose right claim has the higher reward; ties count half."""
    prompts = [({"role": "user", "content": row["prompt"]},) for row in rows]
    right, wrong = (reward.rewards(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
    return float(((right > wrong).float() + 0.5 * (right == wrong).float()).mean())


def one(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Train and measure one variant."""
    from prl.data.traces import CALL
    from prl.rewards import ScalarReward, ToolReward
    from prl.tools import Calculator

    data, folder = out / f"data.{seed}", out / f"{VARIANTS.index(name)}.{seed}"
    write_claims(data, seed)
    train(name, seed, data, folder, overrides)
    rows = [json.loads(line) for line in (data / "claims.validation.jsonl").read_text().splitlines()]
    if name == VARIANTS[0]:
        plain = ScalarReward(str(folder / "model"))
        plain.load()
        return {"accuracy": measure(plain, rows)}
    settings: dict[str, Any] = {"max_calls": 1, "max_trace_tokens": 96}
    reward = ToolReward(str(folder / "model"), {"sum": Calculator()}, **settings)
    alone = ToolReward(str(folder / "model"), {}, **settings)
    reward.load(), alone.load()
    traces = reward.traces([({"role": "user", "content": row["prompt"]},) for row in rows], [r["chosen"] for r in rows])
    calls = [CALL.search(trace) for trace in traces]
    asked = [call is not None and call[2].strip() == row["prompt"] for call, row in zip(calls, rows, strict=True)]
    return {
        "accuracy": measure(reward, rows),
        "without": measure(alone, rows),
        "calls": sum(call is not None for call in calls) / len(rows),
        "right_calls": sum(asked) / len(rows),
    }


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/themis", VARIANTS)
    write_claims(options.out, options.first_seed)  # what configs/methods/themis.yaml names
    rows = missing_runs(
        options.out / "results.jsonl",
        options.wanted,
        lambda name, seed: one(name, seed, options.out, options.overrides),
    )
    print(table(rows, "reward model", COLUMNS))


if __name__ == "__main__":
    main()
