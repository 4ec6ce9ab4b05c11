"""`prl quickstart`: the whole method on a small world of its own, from generated data to a measured policy."""

import argparse
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from prl.cli.places import find_config
from prl.system.outputs import OutputError, check_file, check_folder, json_with, write_text

STAGES = ("world", "supervised", "judge", "ppo", "report")
FOLDERS = STAGES[:-1]
WORLD_FILES = ("tokenizer/*", "demonstrations.*.jsonl", "pairs.*.jsonl", "prompts.*.jsonl")
CONFIGS = {"supervised": "supervised.yaml", "judge": "generative_reward.yaml", "ppo": "pairwise_ppo.yaml"}
OWN_REPORT = json_with("judge", "policy", "seconds", "samples")

console = Console()


def main(args: list[str]) -> None:
    """Run the stages, then print the table and write report.json."""
    worlds = argparse.ArgumentParser(add_help=False)
    worlds.add_argument("--world", choices=("text", "images"), default="text")
    chosen, rest = worlds.parse_known_args(args)
    if chosen.world == "images":
        from prl.cli.commands.quickstart_images import main as of_images

        of_images(rest)
        return
    parser = argparse.ArgumentParser("prl quickstart", description=__doc__)
    parser.add_argument("--world", choices=("text", "images"), default="text", help="text, or a world of pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the world, the weights and every draw")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/quickstart"), help="folder; an earlier quickstart in it is replaced"
    )
    parser.add_argument("--configs", type=Path, default=Path("configs/quickstart"), help="folder of the three configs")
    parser.add_argument("--only", choices=STAGES, help="run one stage of an existing folder")
    options = parser.parse_args(args)
    options.configs = find_config(options.configs)
    if not options.configs.is_dir():
        raise SystemExit(
            f"prl quickstart: no folder {options.configs}; leave --configs out for those that come with prl"
        )
    from prl.cli.quiet import quiet_lightning

    quiet_lightning()
    stages = (options.only,) if options.only else STAGES
    if options.only is None:
        _remove_earlier(options.out)
    elif options.only == "world" and not (options.out / "world" / "tokenizer").exists():
        check_folder(options.out / "world", "the world's folder")
    elif options.only == "report":
        check_file(options.out / "report.json", "the report", OWN_REPORT)
    for number, stage in enumerate(stages, 1):
        console.rule(f"[bold]{number}/{len(stages)} {stage}", align="left")
        start = perf_counter()
        if stage == "world":
            write_world_and_tokenizer(options.out, options.seed)
        elif stage == "report":
            write_report(options.out, options.seed)
        else:
            fit(stage, options.out, options.configs, options.seed)
            write_text(options.out / stage / "seconds.json", json.dumps(perf_counter() - start))
    console.print(f"\nEverything is in {options.out}. To see the curves:\ntensorboard --logdir {options.out}")


def _remove_earlier(folder: Path) -> None:
    """Delete the files of an earlier quickstart; other files stay.

    Raises:
        OutputError: before anything is deleted, when a needed folder holds files that no quickstart wrote.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return  # before what follows imports torch: a first run writes its world meanwhile
    from prl.run_folder.contents import BEGUN_FILES, RUN_FILES, check_run_folder, foreign_files

    for stage in FOLDERS:
        place = folder / stage
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise OutputError(f"{place} is no folder of a quickstart; give another --out, or move it away")
        begun = (place / ("tokenizer" if stage == "world" else "config.yaml")).exists()
        own = WORLD_FILES if stage == "world" else RUN_FILES
        if found := foreign_files(place, own if begun else BEGUN_FILES):
            raise OutputError(
                f"{place} would be replaced, and it holds what no quickstart wrote ({found[0]}, {len(found)} files in "
                "all); give another --out, or move it away"
            )
        check_run_folder(place)
    check_file(folder / "report.json", "the report", OWN_REPORT)
    for stage in FOLDERS:
        shutil.rmtree(folder / stage, ignore_errors=True)
    (folder / "report.json").unlink(missing_ok=True)


def write_world_and_tokenizer(out: Path, seed: int) -> None:
    """Generate the data, in a process of its own while this one imports what training needs, and its tokenizer."""
    from prl.quickstart.world import write_world

    with ProcessPoolExecutor(1) as pool:
        writing = pool.submit(write_world, out / "world", seed)
        import lightning_modules  # noqa: F401
        import prl.cli.app  # noqa: F401
        from prl.quickstart.tokenizer import build_tokenizer

        paths = writing.result()
    build_tokenizer().save_pretrained(out / "world" / "tokenizer")
    console.print("wrote " + ", ".join(path.name for path in paths.values()))


def fit(stage: str, out: Path, configs: Path, seed: int) -> None:
    """Run one training stage through the command line that a user would type, with paths below `out`."""
    from prl.cli.app import run_stage

    data = {"supervised": "demonstrations", "judge": "pairs", "ppo": "prompts"}[stage]
    args = ["fit", "--config", str(configs / CONFIGS[stage]), "--run_dir", str(out / stage)]
    args += ["--seed_everything", str(seed), "--overwrite", "true"]
    args += ["--trainer.enable_model_summary", "false"]
    for split in ("train", "validation"):
        args += [f"--data.init_args.{split}.path", str(out / "world" / f"{data}.{split}.jsonl")]
    if stage == "supervised":
        args += ["--model.init_args.model.tokenizer", str(out / "world" / "tokenizer")]
    if stage == "judge":
        args += ["--model.init_args.model.path", str(out / "supervised" / "model")]
    if stage == "ppo":
        args += ["--model.init_args.policy.path", str(out / "supervised" / "model")]
        args += ["--model.init_args.reward.init_args.path", str(out / "judge" / "model")]
    console.print("prl " + " ".join(args), style="dim", soft_wrap=True)
    run_stage(args)


def write_report(out: Path, seed: int) -> None:
    """Measure judge and policies on validation prompts, print the table, write report.json."""
    report = measure(out)
    report["seed"] = seed
    write_text(out / "report.json", json.dumps(report, indent=2) + "\n")
    table = Table("measure", "value", "95 % interval over prompts", title="quickstart")
    for group in ("judge", "policy", "seconds"):
        for name, value in report[group].items():
            if not name.endswith(("_lo", "_hi")):
                low, high = report[group].get(f"{name}_lo"), report[group].get(f"{name}_hi")
                table.add_row(f"{group}.{name}", f"{value:.3f}", "" if low is None else f"{low:.3f} to {high:.3f}")
    console.print(table)
    samples = Table("prompt", "before", "after", "anchor", title="sampled responses to validation prompts")
    for row in report["samples"]:
        samples.add_row(*row.values())
    console.print(samples)


def measure(out: Path) -> dict[str, Any]:
    """Compute the numbers of report.json."""
    from prl.config import Sampling
    from prl.quickstart.evaluate import evaluate

    prompts = out / "world" / "prompts.validation.jsonl"
    sampling = Sampling(max_new_tokens=12)
    before = evaluate(out / "supervised" / "model", prompts, sampling)
    after = evaluate(out / "ppo" / "model", prompts, sampling, reference=out / "supervised" / "model")
    policy: dict[str, float] = {}
    for moment, result in (("before", before), ("after", after)):
        for name, interval in (("gold", result.gold), ("win_rate", result.win_rate)):
            policy |= {
                f"{name}_{moment}": interval.mean,
                f"{name}_{moment}_lo": interval.low,
                f"{name}_{moment}_hi": interval.high,
            }
    policy["kl"] = after.kl
    pairs = zip(before.responses[:8], after.responses[:8], strict=True)
    samples = [{"prompt": b[0], "before": b[1], "after": a[1], "anchor": b[2]} for b, a in pairs]
    seconds = {stage: json.loads((out / stage / "seconds.json").read_text()) for stage in CONFIGS}
    return {"judge": measure_judge(out), "policy": policy, "seconds": seconds, "samples": samples}


def measure_judge(out: Path) -> dict[str, float]:
    """Measure accuracy, calibration and order effects of the saved judge on validation pairs of unseen prompts."""
    import torch

    from prl.data import DataSource, PreferencePair, load_records
    from prl.evaluation.bootstrap import bootstrap_mean
    from prl.evaluation.judge.report import judge_metrics
    from prl.judge import GenerativeJudge
    from prl.verdict import wins

    judge = GenerativeJudge.from_pretrained(str(out / "judge" / "model"))
    source = DataSource(str(out / "world" / "pairs.validation.jsonl"))
    pairs: list[Any] = load_records(source, PreferencePair).records
    verdict = judge.compare([p.prompt for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs])
    metrics = judge_metrics(verdict, torch.tensor([p.preference for p in pairs]))
    right = wins(verdict.win_logit).tolist()
    interval = bootstrap_mean(right, [p.prompt[-1]["content"] for p in pairs])
    return {**metrics, "accuracy_lo": interval.low, "accuracy_hi": interval.high}
