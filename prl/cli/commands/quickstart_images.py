"""`prl quickstart --world images`: preference alignment of a small model of pictures, from generated data to a grid."""

import argparse
import json
import shutil
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from prl.cli.places import find_config
from prl.system.outputs import check_file, json_with, write_text

STAGES = ("world", "base", "pairs", "preference", "reward", "policy", "report")
MADE = ("world", "pairs")
"""Folders of generated files; those of other stages are run folders."""
CONFIGS = {
    "base": "base.yaml",
    "preference": "preference.yaml",
    "reward": "reward.yaml",
    "policy": "trajectory_policy.yaml",
}
LENGTHS = {
    "preference": ("--trainer.max_steps", "200"),
    "policy": ("--model.init_args.iterations", "40"),
}
CAPTIONED, REFERENCES, ROUNDS, RENDERED = 6000, 10, 16, 6000
"""Captioned pictures, right pictures of each prompt, pairs of each prompt by the base model, and rendered pairs."""
OWN_REPORT = json_with("gold", "seconds")

console = Console()


def main(args: list[str]) -> None:
    """Run the stages, then print the table, write report.json and the grid of pictures."""
    from prl.cli.quiet import quiet_lightning

    parser = argparse.ArgumentParser("prl quickstart --world images", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the world, the weights and every draw")
    parser.add_argument("--out", type=Path, default=Path("runs/images"), help="folder; an earlier world is replaced")
    parser.add_argument("--configs", type=Path, default=Path("configs/images"), help="folder of the configs")
    parser.add_argument("--only", choices=STAGES, help="run one stage of an existing folder")
    options = parser.parse_args(args)
    options.configs = find_config(options.configs)
    if not options.configs.is_dir():
        raise SystemExit(f"prl quickstart: no folder {options.configs}; leave --configs out for those of prl")
    quiet_lightning()
    if options.only is None:
        remove_earlier(options.out)
    for number, stage in enumerate(stages := (options.only,) if options.only else STAGES, 1):
        console.rule(f"[bold]{number}/{len(stages)} {stage}", align="left")
        start = perf_counter()
        run(stage, options.out, options.configs, options.seed)
        if stage != "report":
            write_text(options.out / stage / "seconds.json", json.dumps(perf_counter() - start))
    console.print(f"\nEverything is in {options.out}. To see curves and pictures:\ntensorboard --logdir {options.out}")


def remove_earlier(folder: Path) -> None:
    """Delete the files of an earlier run of this command; other files stay.

    Raises:
        OutputError: before anything is deleted, when a needed folder holds files that it did not write.
    """
    from prl.run_folder.contents import BEGUN_FILES, RUN_FILES, check_run_folder, foreign_files
    from prl.system.outputs import OutputError

    for stage in STAGES[:-1]:
        place = folder / stage
        begun = (place / "seconds.json").exists() or (place / "config.yaml").exists()
        if stage in MADE:
            found = [] if begun or not place.exists() else list(place.iterdir())
        else:
            found = foreign_files(place, (*RUN_FILES, "seconds.json") if begun else BEGUN_FILES)
            check_run_folder(place)
        if found:
            raise OutputError(
                f"{place} would be replaced, and it holds what no quickstart wrote ({found[0]}); give --out"
            )
    check_file(folder / "report.json", "the report", OWN_REPORT)
    for stage in STAGES[:-1]:
        shutil.rmtree(folder / stage, ignore_errors=True)
    for name in ("report.json", "pictures.png"):
        (folder / name).unlink(missing_ok=True)


def run(stage: str, out: Path, configs: Path, seed: int) -> None:
    """Run one stage."""
    from prl.quickstart.images import own_pairs
    from prl.quickstart.images.data import SPLITS

    if stage == "world":
        write_world(out / "world", seed)
    elif stage == "pairs":
        for split, rounds in zip(SPLITS, (ROUNDS, 2), strict=True):
            own_pairs.write_own_pairs(out / "base" / "model", out / "pairs", split, rounds, seed)
            own_pairs.write_own_user_pairs(out / "pairs", out / "pairs" / f"users.{split}.jsonl", split)
        own_pairs.write_judge_pairs(out / "pairs", RENDERED, seed)
    elif stage == "report":
        write_report(out, seed)
    else:
        fit(stage, out, configs, seed)


def write_world(folder: Path, seed: int) -> None:
    """Write captioned pictures, prompts, and models with random weights."""
    from prl.quickstart.images import ALL, own_pairs, write_captioned, write_prompts
    from prl.quickstart.images.pipeline import write_pipeline, write_scorer

    folder.mkdir(parents=True, exist_ok=True)
    prompts = [scene.prompt for scene in ALL]
    write_captioned(folder, "train", CAPTIONED, seed)
    write_captioned(folder, "validation", 120, seed)
    own_pairs.write_references(folder, REFERENCES, seed)
    write_prompts(folder, "train", prompts)
    write_prompts(folder, "validation", prompts * 2)
    write_pipeline(folder / "pipeline", seed)
    write_scorer(folder / "scorer", seed)
    console.print("wrote captioned pictures, prompts, a Stable Diffusion 3 and a reward model with random weights")


def fit(stage: str, out: Path, configs: Path, seed: int) -> None:
    """Run one training stage through the command line that a user would type, with paths below `out`."""
    from prl.cli.app import run_stage

    model = {"base": out / "world" / "pipeline", "preference": out / "base" / "model"}
    model |= {"reward": out / "world" / "scorer", "policy": out / "preference" / "model"}
    rows = {"base": ("world", "captioned"), "preference": ("pairs", "pairs"), "reward": ("pairs", "judge")}
    folder, kind = rows.get(stage, ("world", "prompts"))
    args = ["fit", "--config", str(configs / CONFIGS[stage]), "--run_dir", str(out / stage)]
    args += ["--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--overwrite", "true"]
    args += ["--trainer.enable_model_summary", "false", "--model.init_args.model.path", str(model[stage])]
    args += ["--data.init_args.train.path", str(out / folder / f"{kind}.train.jsonl")]
    kind = "pairs" if stage == "reward" else kind
    args += ["--data.init_args.validation.path", str(out / folder / f"{kind}.validation.jsonl")]
    if stage == "policy":  # Pref-GRPO: the share of the other pictures of its prompt that a picture beats
        judge = {"class_path": "prl.diffusion.rewards.LearnedImageReward"}
        judge["init_args"] = {"path": str(out / "reward" / "model")}  # type: ignore[assignment]
        of = {"class_path": "prl.diffusion.rewards.RewardDifference", "init_args": {"reward": judge}}
        args += ["--model.init_args.reward", "prl.diffusion.rewards.WinRate"]
        args += ["--model.init_args.reward.init_args.judge", json.dumps(of)]
        args += ["--model.init_args.heldout_reward", "prl.quickstart.images.rewards.GoldReward"]
    args += LENGTHS.get(stage, ())
    console.print("prl " + " ".join(args), style="dim", soft_wrap=True)
    run_stage(args)


def write_report(out: Path, seed: int) -> None:
    """Make pictures by each model from the same noise, measure them, and draw some side by side."""
    from prl.evaluation.bootstrap import bootstrap_mean
    from prl.quickstart.images import ALL, attributes, gold, own_pairs, to_uint8

    check_file(out / "report.json", "the report", OWN_REPORT)
    prompts = [scene.prompt for scene in ALL] * 8
    models = {"base": out / "base", "Diffusion-DPO": out / "preference", "then Pref-GRPO": out / "policy"}
    sampling = own_pairs.ImageSampling(steps=10)
    measured: dict[str, dict[str, float]] = {}
    shown: dict[str, Any] = {}
    table = Table("model", "gold", "95 % over prompts", "shape", "colour", "place", "clarity", title="pictures")
    for name, run_folder in models.items():
        images = own_pairs.make_pictures(run_folder / "model", prompts, seed, "report", sampling)
        interval = bootstrap_mean(gold(images, prompts).tolist(), prompts)
        parts = {part: float(found.float().mean()) for part, found in attributes(images, prompts).items()}
        measured[name] = {"gold": interval.mean, "low": interval.low, "high": interval.high, **parts}
        table.add_row(
            name,
            f"{interval.mean:.3f}",
            f"{interval.low:.3f} to {interval.high:.3f}",
            *(f"{v:.3f}" for v in parts.values()),
        )
        shown[name] = to_uint8(images[:60:5])
    own_pairs.side_by_side(shown, prompts[:60:5], out / "pictures.png")
    seconds = {stage: json.loads((out / stage / "seconds.json").read_text()) for stage in STAGES[:-1]}
    write_text(out / "report.json", json.dumps({"gold": measured, "seconds": seconds, "seed": seed}, indent=2) + "\n")
    console.print(table)
    console.print(f"pictures of all three from the same noise: {out / 'pictures.png'}")
