"""Methods of the image family in the world of pictures: true quality before and after, over several seeds.

Takes a finished world at runs/images (`prl quickstart --world images`): its base model, pairs of its pictures, and its
reward model. Every run starts from the base model. A run that is in the results file already is not repeated.
"""

import json
from pathlib import Path
from typing import Any

from runs import make_missing, run_options, table

WORLD = Path("runs/images")
PAIRS, POLICY, BASE = "preference", "trajectory_policy", "base"
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
MODEL = "--model.init_args."
METHODS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Diffusion-DPO": (PAIRS, "diffusion_dpo", ()),
    "SmPO": (PAIRS, "smpo", ("soft",)),
    "RankDPO": (PAIRS, "rank_dpo", ()),
    "SePPO": (PAIRS, "seppo", ()),
    "SePPO, loss alone": (PAIRS, "seppo", ("experts",)),
    "Diffusion-DRO": (PAIRS, "diffusion_dro", ()),
    "Diffusion-DRO, loss alone": (PAIRS, "diffusion_dro", ("experts",)),
    "RPO for subjects, loss alone": (PAIRS, "subject_rpo", ("experts",)),
    "Flow-GRPO": (POLICY, "flow_grpo", ()),
    "Pref-GRPO": (POLICY, "pref_grpo", ()),
    "PaCo-GRPO": (POLICY, "paco_grpo", ()),
    "D3PO": (POLICY, "d3po", ()),
    "PRDP": (POLICY, "prdp", ()),
    "Adv-GRPO": (POLICY, "adv_grpo", ()),
    "Flow-RWR": (BASE, "flow_rwr", ()),
}
"""Name -> config, overlay, and the pairs where they are others than best and worst of the base model's pictures."""
LENGTHS = {
    PAIRS: ("--trainer.max_steps", "200", "--trainer.val_check_interval", "100"),
    POLICY: (f"{MODEL}iterations", "40", "--trainer.val_check_interval", "20"),
    BASE: (),
}
COLUMNS = {
    **{"start": ("gold before", 3), "last": ("gold after", 3), "gain": ("gain", 3)},
    "seconds": ("seconds", 0),
}


def soft_pairs(out: Path) -> Path:
    """Write the pairs with the probability that chosen is better in place of a sure label."""
    from prl.data.images import ImageFiles, as_tensor
    from prl.quickstart.images import gold

    folder = WORLD / "pairs"
    path = folder / "soft.train.jsonl"
    if not path.exists():
        import torch

        files, rows = ImageFiles(folder), []
        for row in map(json.loads, (folder / "pairs.train.jsonl").open(encoding="utf-8")):
            pictures = torch.stack([as_tensor(files.read(row[side], side)) for side in ("chosen", "rejected")])
            quality = gold(pictures, [row["prompt"]] * 2)
            rows.append({**row, "margin": float(quality[0] - quality[1])})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def expert_pairs(out: Path) -> Path:
    """Write pairs of a rendered picture, which is right, and one of the base model's for the same prompt."""
    from random import Random

    import numpy as np

    from prl.quickstart.images import parse_prompt, random_look, reference, render, to_uint8, write_arrays

    folder = WORLD / "pairs"
    path = folder / "experts.train.jsonl"
    if not path.exists():
        draw, rows, pictures = Random(0), [], []
        for row in map(json.loads, (folder / "pairs.train.jsonl").open(encoding="utf-8")):
            own = draw.choice(row["responses"])
            rows.append({"prompt": row["prompt"], "chosen": reference("experts", len(pictures)), "rejected": own})
            pictures.append(render(parse_prompt(row["prompt"]), random_look(draw)))
        write_arrays(folder, "experts", to_uint8(np.stack(pictures)))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make one run, and read true quality from its validations."""
    from time import perf_counter

    from prl.cli.app import run_stage

    config, overlay, data = METHODS[name]
    run = out / f"{name.lower().replace(' ', '_').replace(',', '')}.{seed}"
    args = ["fit", "--config", f"configs/images/{config}.yaml", "--config", f"configs/methods/images/{overlay}.yaml"]
    args += ["--run_dir", str(run), "--overwrite", "true", "--seed_everything", str(seed)]
    args += ["--data.init_args.seed", str(seed), "--checkpoint.keep", "1", *LENGTHS[config], *QUIET]
    for kind in data:
        path = {"soft": soft_pairs, "experts": expert_pairs}[kind](out)
        args += ["--data.class_path", "ImagePairDataModule", "--data.init_args.train.path", str(path)]
        args += ["--data.init_args.validation.path", str(WORLD / "pairs/pairs.validation.jsonl")]
    if name.endswith("loss alone") and overlay != "subject_rpo":
        args += [f"{MODEL}rejected", "null"]  # rejected pictures are those of the pairs
    start = perf_counter()
    run_stage([*args, *overrides])
    golds = gold_of(run)
    return {
        "start": golds[0],
        "last": golds[-1],
        "gain": golds[-1] - golds[0],
        "golds": golds,
        "seconds": perf_counter() - start,
    }


def gold_of(run: Path) -> list[float]:
    """Read the true quality that validations measured."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest = max(run.rglob("events.*"), key=lambda file: file.stat().st_mtime)  # a run that was stopped left one too
    events = EventAccumulator(str(newest), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    tag = "val/heldout_reward" if "val/heldout_reward" in tags else "val/reward"
    return [each.value for each in events.Scalars(tag)]


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/image_methods", METHODS)
    print(table(make_missing(options, train), "method", COLUMNS))


if __name__ == "__main__":
    main()
