"""Clips of a moving figure: VideoReward learns what is better in looks, motion and text; Flow-DPO from its labels.

One world for all seeds: clips with captions, a small Wan on pixels that learns from them, and pairs of rendered clips.
Each seed trains VideoReward on these, makes four clips of the base model for each prompt, of which VideoReward chooses
the best and the worst, and trains Flow-DPO on these pairs. All is measured by the world's own check, which no model
sees. What is there already is not made again.
"""

import json
from pathlib import Path
from typing import Any

from runs import make_missing, run_options, table

SIDES = ("visual", "motion", "text")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
MODEL, DATA = "--model.init_args.", "--data.init_args."
CLIP, PROMPT_TOKENS = [4, 16, 16], 10
CAPTIONED, PAIRS, ROUNDS, PER_PROMPT = 6000, 4000, 10, 4
FLAW_RATE = 0.2
"""Of captioned clips on each side."""
"""Clips with captions, pairs for VideoReward, pairs of each prompt for Flow-DPO, and clips that each is chosen from."""
COLUMNS = {
    **{f"accuracy_{side}": (f"accuracy {side}", 3) for side in SIDES},
    **{f"before_{side}": (f"{side} before", 3) for side in (*SIDES, "all")},
    **{f"after_{side}": (f"{side} after", 3) for side in (*SIDES, "all")},
    "gain": ("gain", 3),
}


def write_world(folder: Path, seed: int) -> None:
    """Write clips, prompts, and models with random weights."""
    from prl.quickstart.images import CLIP_PROMPTS, write_captioned_clips, write_clips, write_prompts
    from prl.quickstart.images.pipeline import write_clip_pipeline, write_scorer

    write_captioned_clips(folder, "train", CAPTIONED, seed, flaw_rate=FLAW_RATE)
    write_captioned_clips(folder, "validation", 96, seed, flaw_rate=FLAW_RATE)
    write_clips(folder, "train", PAIRS, seed)
    write_clips(folder, "validation", 400, seed)
    write_prompts(folder, "validation", CLIP_PROMPTS * 2)
    write_clip_pipeline(folder / "pipeline", seed)
    write_scorer(folder / "scorer", seed, frames=CLIP[0])


def write_pairs(base: Path, home: Path, seed: int) -> None:
    """Write pairs of the base model's clips: of four for each prompt, the best and the worst by VideoReward."""
    from prl.diffusion.rewards import LearnedImageReward
    from prl.diffusion.sampling import ImageSampling
    from prl.quickstart.images import CLIP_PROMPTS, reference, to_uint8, write_arrays
    from prl.quickstart.images.own_pairs import make_pictures

    reward = LearnedImageReward(str(home / "reward" / "model"))
    for split, rounds in (("train", ROUNDS), ("validation", 1)):
        name, rows = f"pairs.{split}", []
        prompts = [prompt for prompt in CLIP_PROMPTS for _ in range(rounds * PER_PROMPT)]
        clips = make_pictures(base, prompts, seed, name, ImageSampling(steps=10), PROMPT_TOKENS, CLIP)
        write_arrays(home / "pairs", name, to_uint8(clips.movedim(1, 2)))
        scores = reward.score(clips, prompts).view(-1, PER_PROMPT)
        for group, of in enumerate(scores):
            sides = {"chosen": int(of.argmax()), "rejected": int(of.argmin())}
            names = {side: reference(name, group * PER_PROMPT + number) for side, number in sides.items()}
            rows.append({"prompt": prompts[group * PER_PROMPT], **names})
        path = home / "pairs" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def fit(stage: str, out: Path, home: Path, seed: int, overrides: list[str]) -> None:
    """Run a stage in the folder of a seed."""
    from prl.cli.app import run_stage

    rows = {"base": out / "world/captioned_clips", "reward": out / "world/clips", "preference": home / "pairs/pairs"}
    source = {"base": "world/pipeline", "reward": "world/scorer", "preference": "base/model"}[stage]
    args = ["fit", "--config", f"configs/images/{stage}.yaml", "--config", f"configs/clips/{stage}.yaml"]
    args += ["--run_dir", str(home / stage), "--overwrite", "true", "--checkpoint.keep", "1", *QUIET]
    args += ["--seed_everything", str(seed), f"{DATA}seed", str(seed), f"{MODEL}model.path", str(out / source)]
    for split in ("train", "validation"):
        args += [f"{DATA}{split}.path", f"{rows[stage]}.{split}.jsonl"]
    run_stage([*args, *overrides])


def measure(model: Path, home: Path, name: str) -> dict[str, float]:
    """Check two clips of a model for each prompt, from equal noise for all models; draw the first."""
    from prl.diffusion.sampling import ImageSampling
    from prl.quickstart.images import CLIP_PROMPTS, clip_scores, to_uint8
    from prl.quickstart.images.own_pairs import make_pictures, side_by_side

    prompts = list(CLIP_PROMPTS * 2)
    clips = make_pictures(model, prompts, 0, "report", ImageSampling(steps=10), PROMPT_TOKENS, CLIP)
    frames = to_uint8(clips.movedim(1, 2)[::9][:8])
    rows = {f"frame {number}": frames[:, number] for number in range(CLIP[0])}
    side_by_side(rows, [prompt.replace(" moving", "") for prompt in prompts[::9][:8]], home / f"{name}.png")
    found = {side: float(each.mean()) for side, each in clip_scores(clips.movedim(1, 2), prompts).items()}
    return {**found, "all": sum(found.values()) / len(found)}


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make what a seed lacks, and measure it; the world and its base model are of seed 0."""
    home = out if seed == 0 else out / f"seed{seed}"
    base = out / "base" / "model"
    makers = {
        "world": lambda: write_world(out / "world", 0),
        "base": lambda: fit("base", out, out, 0, []),
        "reward": lambda: fit("reward", out, home, seed, []),
        "pairs": lambda: write_pairs(base, home, seed),
        "preference": lambda: fit("preference", out, home, seed, overrides),
    }
    for stage, make in makers.items():
        place = out if stage in ("world", "base") else home
        (place / stage).mkdir(parents=True, exist_ok=True)
        if not (place / f"{stage}.done").exists():
            make()
            (place / f"{stage}.done").touch()
        if name == stage:
            return {}
    before, after = (measure(folder / "model", home, folder.name) for folder in (out / "base", home / "preference"))
    return {
        **{f"accuracy_{side}": last(home / "reward", f"val/accuracy/{side}") for side in SIDES},
        **{f"before_{side}": value for side, value in before.items()},
        **{f"after_{side}": value for side, value in after.items()},
        "gain": after["all"] - before["all"],
    }


def last(run: Path, tag: str) -> float:
    """Read the last value of a curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(run.rglob("events.*"))), size_guidance={"scalars": 0}).Reload()
    return events.Scalars(tag)[-1].value


def main() -> None:
    """Run what is missing, then print the table."""
    rows = make_missing(run_options(__doc__, "runs/clips", ("world", "Flow-DPO")), train)
    print(table([row for row in rows if "gain" in row], "method", COLUMNS))


if __name__ == "__main__":
    main()
