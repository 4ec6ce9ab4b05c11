"""Make the reward models, prompts and starting policies that methods of online.py need beyond the quickstart.

Each function trains a model only where its folder is missing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

QUICKSTART = Path("runs/quickstart")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--checkpoint.keep", "1")
THREE_KINDS = Path("runs/online/three_kinds.jsonl")
"""Rankings to score, verifiable prompts and open ones, 1500 of each kind at most."""
RANKED = 1500


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a file of one JSON object a line, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fit_model(run: Path, *args: str) -> Path:
    """Return the model folder of a run, which is made when it is missing."""
    from prl.cli.app import run_stage

    if not (run / "model").is_dir():
        run_stage(["fit", *args, "--run_dir", str(run), "--overwrite", "true", *QUIET])
    return run / "model"


def bradley_terry() -> None:
    """Train the quickstart's Bradley-Terry model."""
    fit_model(QUICKSTART / "bradley_terry", "--config", "configs/quickstart/bradley_terry.yaml")


def preference() -> None:
    """Train the quickstart's policy by DPO."""
    fit_model(QUICKSTART / "preference", "--config", "configs/quickstart/preference.yaml")


def heads() -> None:
    """Train a reward model with a head for correctness and one for length."""
    from dpa import reward_model

    (out := Path("runs/dpa")).mkdir(parents=True, exist_ok=True)
    reward_model(out)


def rubrics() -> None:
    """Write the prompts with their criteria."""
    from prl.quickstart.rubric import write_rubrics

    write_rubrics(QUICKSTART / "world")


def dotted(out: Path) -> Path:
    """Train the start of methods about length: the supervised stage, with up to six dots after answers."""
    paths, draw = [], Random(0)
    for split in ("train", "validation"):
        rows = read_rows(QUICKSTART / "world" / f"demonstrations.{split}.jsonl")
        for row in rows:
            row["completion"] += "." * draw.randint(0, 6)
        paths += [f"--data.init_args.{split}.path", str(write_rows(out / f"dotted.{split}.jsonl", rows))]
    return fit_model(out / "dotted", "--config", "configs/quickstart/supervised.yaml", *paths)


def refereed(out: Path) -> Path:
    """Write prompts of three kinds, and train a start that knows the question of a referee beside the world."""
    from prl.cli.entry import main

    world, rankings = QUICKSTART / "world", out / "rankings.jsonl"
    if not rankings.exists():
        out.mkdir(parents=True, exist_ok=True)
        pairs = str(world / "pairs.train.jsonl")
        main(["referee", pairs, "--limit", str(RANKED), "--instruction", "Score.", "--output", str(rankings)])
    asked, prompts = read_rows(rankings), read_rows(world / "prompts.train.jsonl")
    verifiable = [{"prompt": row["prompt"], "answer": row["anchor"]} for row in prompts[:RANKED]]
    write_rows(THREE_KINDS, [*asked, *verifiable, *prompts[RANKED : 2 * RANKED]])
    answered = [{"prompt": row["prompt"], "completion": row["anchor"]} for row in asked]
    shown = read_rows(world / "demonstrations.train.jsonl")
    path = write_rows(out / "refereed.jsonl", [*shown, *answered])
    config = ("--config", "configs/quickstart/supervised.yaml", "--data.init_args.train.path", str(path))
    longer = ("--model.init_args.max_length", "256", "--data.init_args.group_by_length", "true")
    return fit_model(out / "refereed", *config, *longer)


INPUTS: dict[str, Callable[[], None]] = {
    "bradley_terry": bradley_terry,
    "preference": preference,
    "heads": heads,
    "rubrics": rubrics,
}
STARTS: dict[str, Callable[[Path], Path]] = {
    "supervised": lambda out: QUICKSTART / "supervised" / "model",
    "dotted": dotted,
    "refereed": refereed,
}
