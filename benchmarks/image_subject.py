"""RPO for subjects with its early stop, in the world of pictures: when it stops, and what the best checkpoint makes.

Takes the base model of a finished world at runs/images (`prl quickstart --world images`). The subject is a blue circle
with a light core, which the base model never saw, in four pictures: two in the middle, two on the left. Prompts of
validations have it in all five places. Every run goes on until the harmonic reward has not risen for three validations;
then the checkpoint where it was highest is exported, and measured on pictures from other noise.
"""

import json
from math import exp
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any

from runs import make_missing, run_options, table

BASE = Path("runs/images/base/model")
PLACES = ("left", "right", "top", "bottom", "middle")
OWN, VALIDATED = 8, 12
"""Pictures of the base model beside each reference, and rows of each place in validations."""
MODEL = "--model.init_args."
NAME = "RPO for subjects"
COLUMNS = {
    **{"steps": ("stopped after", 0), "best_step": ("best after", 0), "start": ("reward before", 3)},
    **{"best": ("best", 3), "last": ("last", 3), "start_image": ("likeness before", 3), "image": ("exported", 3)},
    **{"start_text": ("gold before", 3), "text": ("exported", 3)},
}


def write_subject(folder: Path) -> None:
    """Write reference pictures, pairs of them with pictures of the base model, and pairs for validations."""
    import numpy as np

    from prl.diffusion.sampling import ImageSampling
    from prl.quickstart.images import Look, Scene, from_uint8, gold, reference, render, to_uint8, write_arrays
    from prl.quickstart.images.own_pairs import make_pictures

    if (folder / "pairs.validation.jsonl").exists():
        return
    draw, scenes = Random(0), {place: Scene("circle", "blue", place) for place in PLACES}
    places = ["middle", "middle", "left", "left", *(place for place in PLACES for _ in range(VALIDATED))]
    shifts = [(draw.uniform(-0.5, 0.5), draw.uniform(-0.5, 0.5)) for _ in places]
    looks = [Look(size=3.4, background=-0.65, shift=shift, texture="ring") for shift in shifts]
    subject = to_uint8(np.stack([render(scenes[at], look) for at, look in zip(places, looks, strict=True)]))
    write_arrays(folder, "subject", subject)
    prompts = [scenes[at].prompt for at in places]
    _write(folder / "references.jsonl", [{"prompt": prompts[n], "image": reference("subject", n)} for n in range(4)])
    for split, of, times in (("train", range(4), OWN), ("validation", range(4, len(places)), 1)):
        numbers = [number for number in of for _ in range(times)]
        texts = [prompts[number] for number in numbers]
        own = to_uint8(make_pictures(BASE, texts, 0, f"subject.{split}", ImageSampling(steps=10)))
        write_arrays(folder, f"own.{split}", own)
        lead = gold(from_uint8(subject[numbers]), texts) - gold(from_uint8(own), texts)
        rows = [
            {
                **{"prompt": text, "chosen": reference("subject", number), "rejected": reference(f"own.{split}", at)},
                "preference": 1 / (1 + exp(-float(lead[at]))),
            }
            for at, (text, number) in enumerate(zip(texts, numbers, strict=True))
        ]
        _write(folder / f"pairs.{split}.jsonl", rows)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make one run, export its best checkpoint, and measure both likenesses of it and of the base model."""
    from prl.cli.app import run_stage
    from prl.cli.commands.export import export

    subject, run = out / "subject", out / f"run.{seed}"
    subject.mkdir(parents=True, exist_ok=True)
    write_subject(subject)
    args = ["fit", "--config", "configs/images/preference.yaml"]
    for overlay in ("subject_rpo", "subject_early_stop"):
        args += ["--config", f"configs/methods/images/{overlay}.yaml"]
    args += ["--run_dir", str(run), "--overwrite", "true", "--seed_everything", str(seed)]
    args += ["--data.init_args.seed", str(seed), "--trainer.enable_progress_bar", "false"]
    cli = run_stage([*args, *overrides])
    if (run / "best").exists():
        rmtree(run / "best")
    export(run / "checkpoints" / "best.ckpt", run / "best", run / "config.yaml")
    rewards = rewards_of(run)
    steps = sorted(rewards)
    best = max(steps, key=rewards.__getitem__)
    found = {"start": rewards[0], "best": rewards[best], "last": rewards[steps[-1]], "best_step": best}
    before = measured(BASE, subject, seed)
    return {
        **{"steps": cli.trainer.global_step, **found, **measured(run / "best", subject, seed)},
        **{f"start_{key}": value for key, value in before.items()},
        "rewards": [rewards[step] for step in steps],
    }


def measured(model: Path, subject: Path, seed: int) -> dict[str, float]:
    """Measure likeness to the subject and to the prompts, of pictures for the prompts of validations."""
    from prl.diffusion.sampling import ImageSampling
    from prl.quickstart.images.own_pairs import make_pictures
    from prl.quickstart.images.rewards import GoldReward, LikenessToReferences

    rows = [json.loads(line) for line in (subject / "pairs.validation.jsonl").open(encoding="utf-8")]
    prompts = [row["prompt"] for row in rows]
    pictures = make_pictures(model, prompts, seed, "measured", ImageSampling(steps=10))
    rewards = {"image": LikenessToReferences(str(subject / "references.jsonl")), "text": GoldReward()}
    return {name: float(reward.score(pictures, prompts).mean()) for name, reward in rewards.items()}


def rewards_of(run: Path) -> dict[int, float]:
    """Read the harmonic rewards of validations, by their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest = max(run.rglob("events.*"), key=lambda file: file.stat().st_mtime)  # a run that was stopped left one too
    events = EventAccumulator(str(newest), size_guidance={"scalars": 0}).Reload()
    return {each.step + (each.step > 0): each.value for each in events.Scalars("val/reward")}  # batches are from 0


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/image_subject", [NAME])
    print(table(make_missing(options, train), "run", COLUMNS))


if __name__ == "__main__":
    main()
