"""Diffusion-DPO on scikit-learn's digits: a DDPM of classes learns to draw with more ink, from pairs alone.

The base model is a UNet of 8 x 8 pixels and 10 classes, trained on all digits. A pair is two digits of one class, of
which the one with more ink is chosen. Measured over new pictures of all classes, from equal noise: their mean ink (the
brightness that the pairs reward), the share that a classifier of real digits reads as the class that was asked for, and
how often the implicit reward agrees with the labels of pairs that were not trained on.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prl.diffusion.rewards import ImageReward
from prl.quickstart.images.digits import digits, ink
from runs import make_missing, run_options, table

PER_CLASS, PAIRS = 30, 2000
BETAS = {"beta 50": 50.0, "beta 200": 200.0}
"""Of errors that are means over 64 pixels."""
MODEL, DATA = "--model.init_args.", "--data.init_args."
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
COLUMNS = {
    **{"ink_before": ("ink before", 3), "ink_after": ("ink after", 3), "accuracy": ("implicit accuracy", 3)},
    **{"right_before": ("class right before", 3), "right_after": ("class right after", 3)},
}


class Ink(ImageReward):
    """The mean brightness of a picture."""

    def score(self, images: Any, prompts: Sequence[str]) -> Any:
        """Score pictures: [N]."""
        return ink(images)


def write_world(folder: Path, seed: int) -> None:
    """Write digits with their classes, pairs by ink, and a UNet with random weights."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    images, labels = digits()
    folder.mkdir(parents=True, exist_ok=True)
    pixels = ((images + 1) * 127.5).round().byte().movedim(1, -1).numpy()
    np.save(folder / "digits.npy", pixels)
    draw = np.random.default_rng(seed)
    captioned = [{"prompt": str(label), "image": f"digits.npy#{n}"} for n, label in enumerate(labels.tolist())]
    write_rows(folder / "captioned.jsonl", captioned)
    brightness = ink(images).tolist()
    for split, count in (("train", PAIRS), ("validation", 300)):
        rows = []
        while len(rows) < count:
            label = int(draw.integers(10))
            first, second = draw.choice((labels == label).nonzero().squeeze(1).numpy(), 2, replace=False).tolist()
            better, worse = (first, second) if brightness[first] > brightness[second] else (second, first)
            rows.append({"prompt": str(label), "chosen": f"digits.npy#{better}", "rejected": f"digits.npy#{worse}"})
        write_rows(folder / f"pairs.{split}.jsonl", rows)
    torch.manual_seed(seed)
    unet = UNet2DModel(
        **{"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (32, 64)},
        **{"layers_per_block": 1, "norm_num_groups": 8, "num_class_embeds": 11, "attention_head_dim": 8},
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder / "pipeline")


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def fit(config: str, run: Path, model: Path, rows: str, seed: int, *settings: str) -> Any:
    """Run a stage on the digits."""
    from prl.cli.app import run_stage

    args = ["fit", "--config", f"configs/images/{config}.yaml", "--run_dir", str(run), "--overwrite", "true", *QUIET]
    args += ["--seed_everything", str(seed), f"{DATA}seed", str(seed), "--checkpoint.keep", "1"]
    args += [f"{MODEL}model.path", str(model), f"{MODEL}reward", "digits_bed.Ink", f"{MODEL}measured", "100"]
    home = run.parent / "world"
    if rows == "captioned":
        args += [f"{DATA}train.path", str(home / "captioned.jsonl"), f"{DATA}validation", "null"]
    else:
        for split in ("train", "validation"):
            args += [f"{DATA}{split}.path", str(home / f"pairs.{split}.jsonl")]
    return run_stage([*args, *settings])


def measure(model: Path) -> dict[str, float]:
    """Make pictures of all classes, and read their ink and their classes."""
    from sklearn.linear_model import LogisticRegression

    from prl.diffusion.sampling import ImageSampling
    from prl.quickstart.images.own_pairs import make_pictures

    images, labels = digits()
    reader = LogisticRegression(max_iter=2000).fit(images.flatten(1).numpy(), labels.numpy())
    prompts = [str(label) for label in range(10) for _ in range(PER_CLASS)]
    made = make_pictures(model, prompts, 0, "digits", ImageSampling(steps=20))
    right = reader.predict(made.flatten(1).numpy()) == np.array([int(prompt) for prompt in prompts])
    return {"ink": float(ink(made).mean()), "right": float(right.mean())}


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Train the base model of a seed once, then Diffusion-DPO from it."""
    home = out if seed == 0 else out.with_name(f"{out.name}.{seed}")
    base = home / "base" / "model"
    if not (home / "base.done").exists():
        write_world(home / "world", seed)
        fit("base", home / "base", home / "world" / "pipeline", "captioned", seed)
        (home / "base.done").touch()
    run = home / name.replace(" ", "_")
    beta = json.dumps({"class_path": "DPO", "init_args": {"beta": BETAS[name]}})
    length = ("--trainer.max_steps", "400", "--trainer.val_check_interval", "200")
    cli = fit("preference", run, base, "pairs", seed, f"{MODEL}objective", beta, *length, *overrides)
    before, after = measure(base), measure(run / "model")
    figures = {f"{key}_{when}": found[key] for when, found in (("before", before), ("after", after)) for key in found}
    return {**figures, "accuracy": float(cli.trainer.callback_metrics["val/accuracy"])}


def main() -> None:
    """Run what is missing, then print the table."""
    print(table(make_missing(run_options(__doc__, "runs/digits", BETAS), train), "Diffusion-DPO", COLUMNS))


if __name__ == "__main__":
    main()
