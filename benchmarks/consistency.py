"""PaCo-Reward in the world of pictures: does a small vision-language model learn whether two pictures show one subject?

Measured on 400 new pairs, of which half show one subject and the others two that differ in one respect, and on pairs of
grids of four: how often the grid of one subject has a higher reward than the grid in which one figure is another. Rows:
verdicts and reasons with the paper's weight of the verdict, the plain mean of all tokens, and verdicts alone.
"""

from pathlib import Path
from typing import Any

from runs import make_missing, run_options, table

VARIANTS = {"alpha 0.1": 0.1, "plain mean": None, "verdicts alone": 1.0}
"""Weight of the verdict; of the plain mean it is one over the tokens of an answer, 9 or 10."""
MEAN_TOKENS = 9.5
MODEL, DATA = "--model.init_args.", "--data.init_args."
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
GRIDS = 200
COLUMNS = {"accuracy": ("accuracy of pairs", 3), "grids": ("consistent grid ahead", 3)}


def write_world(folder: Path, seed: int) -> None:
    """Write rows and a model with random weights."""
    from prl.quickstart.images.consistency import write_consistency, write_vision_language

    write_consistency(folder, "train", 6000, seed)
    write_consistency(folder, "validation", 400, seed)
    write_vision_language(folder / "model", seed)


def grids_right(model: str, seed: int) -> float:
    """Compute how often a grid of one subject has a higher reward than one with another figure in it."""
    from random import Random

    import numpy as np
    import torch

    from prl.diffusion.rewards import ConsistencyReward
    from prl.quickstart.images.consistency import picture, subjects

    draw, made = Random(f"{seed}/grids"), []
    for _ in range(GRIDS):
        subject, other = subjects(draw, same=False)
        for last in (subject, other):
            figures = [picture(each, draw) for each in (subject, subject, subject, last)]
            draw.shuffle(figures)
            rows = [np.concatenate(figures[first : first + 2], axis=2) for first in (0, 2)]
            made.append(np.concatenate(rows, axis=1))
    images = torch.from_numpy(np.stack(made)).float()
    reward = ConsistencyReward(model)
    scores = torch.cat([reward.score(part, ["a figure"] * len(part)) for part in images.split(50)]).view(-1, 2)
    return float((scores[:, 0] > scores[:, 1]).float().mean())


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Train a judge, and measure it."""
    from prl.cli.app import run_stage

    home = out if seed == 0 else out.with_name(f"{out.name}.{seed}")
    if not (home / "world.done").exists():
        write_world(home / "world", seed)
        (home / "world.done").touch()
    if name == "world":
        return {}
    run = home / name.replace(" ", "_")
    alpha = VARIANTS[name] or 1 / MEAN_TOKENS
    args = ["fit", "--config", "configs/images/consistency.yaml", "--run_dir", str(run), "--overwrite", "true", *QUIET]
    args += ["--seed_everything", str(seed), f"{DATA}seed", str(seed), "--checkpoint.keep", "1"]
    args += [f"{MODEL}model.path", str(home / "world" / "model"), f"{MODEL}alpha", str(alpha)]
    for split in ("train", "validation"):
        args += [f"{DATA}{split}.path", str(home / "world" / f"consistency.{split}.jsonl")]
    cli = run_stage([*args, *overrides])
    found = cli.trainer.callback_metrics
    return {"accuracy": float(found["val/accuracy"]), "grids": grids_right(str(run / "model"), seed)}


def main() -> None:
    """Run what is missing, then print the table."""
    rows = make_missing(run_options(__doc__, "runs/consistency", ("world", *VARIANTS)), train)
    print(table([row for row in rows if "grids" in row], "trained on", COLUMNS))


if __name__ == "__main__":
    main()
