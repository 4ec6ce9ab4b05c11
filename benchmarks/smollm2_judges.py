"""SmolLM2-135M-Instruct as a judge: zero-shot, calibrated, trained, and with reasons, on two sets of real pairs.

Takes models/smollm2 and the data of docs/results/judge.md, and trains what is missing: a judge on 960 pairs of
alpaca_eval, and one that thinks, on 240. All are measured on the first pairs of both validation sets, beside the rule
that the longer response is better; a rule that always names one place is right half of the time, read in both orders.
Judges with reasons think up to THOUGHT tokens before each verdict. A row that is in the results file is not measured
again.
"""

from pathlib import Path
from typing import Any

from runs import make_missing, run_options, table

MODEL = Path("models/smollm2")
SETS = {"alpaca": "data/alpaca_eval/validation.jsonl.gz", "hh": "data/hh.validation.jsonl"}
TRAIN = "data/alpaca_eval/train.jsonl.gz"
PAIRS, MAX_LENGTH, THOUGHT = 100, 384, 32
ROWS = ("zero-shot", "calibrated", "fenced", "trained", "zero-shot with reasons", "trained with reasons")
FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "baseline_longer", "nll", "ece", "order_gap", "flip_rate")
COLUMNS = {f"{data}_{figure}": (f"{data}: {figure.replace('_', ' ')}", 3) for data in SETS for figure in FIGURES}
COLUMNS["tokens"] = ("tokens thought per reading", 1)


def pairs_of(path: str, limit: int) -> Any:
    """Read the first pairs of a file."""
    from prl.data import DataSource, PreferencePair, load_records

    return load_records(DataSource(path, limit=limit), PreferencePair, "skip").records


def calibrated(out: Path) -> Path:
    """Calibrate the model on training pairs, once."""
    from prl.judge import load_judge
    from prl.judge.calibrated import fit_calibration, write_calibrated
    from prl.judge.examination import judge_pairs

    folder = out / "calibrated"
    if not folder.exists():
        judge = load_judge(MODEL, max_length=MAX_LENGTH)
        write_calibrated(judge, str(MODEL), folder, fit_calibration(judge_pairs(judge, pairs_of(TRAIN, PAIRS))))
    return folder


def trained(kind: str, out: Path, overrides: list[str]) -> Path:
    """Train a judge by a config of configs/smollm2_cpu; a run that was stopped goes on."""
    from prl.cli.app import run_stage

    run = out / kind
    if not (run / "model" / "prl_judge.json").exists():
        args = ["fit", "--config", f"configs/smollm2_cpu/{kind}.yaml", "--run_dir", str(run), *overrides]
        run_stage([*args, "--ckpt_path", "last"] if (run / "checkpoints").exists() else args)
    return run / "model"


def judge_of(name: str, out: Path, overrides: list[str]) -> Any:
    """Load the judge of a row."""
    from prl.config import Reasoning
    from prl.judge import JudgeTemplate, load_judge
    from prl.judge.fences import FENCED_TEMPLATE

    if name == "calibrated":
        return load_judge(calibrated(out))
    if name == "trained":
        return load_judge(trained("generative_reward", out, overrides))
    if name == "trained with reasons":
        return load_judge(trained("reasoning", out, overrides))
    more: dict[str, Any] = {"reasoning": Reasoning(max_tokens=THOUGHT)} if "reasons" in name else {}
    more |= {"template": JudgeTemplate(FENCED_TEMPLATE)} if name == "fenced" else {}
    return load_judge(MODEL, max_length=MAX_LENGTH, **more)


def measure(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Measure a row on both sets."""
    from prl.evaluation.judge.report import judge_report
    from prl.judge.examination import judge_pairs

    judge = judge_of(name, out, overrides)
    row: dict[str, Any] = {}
    for data, path in SETS.items():
        report = judge_report(judge_pairs(judge, pairs_of(path, PAIRS)))
        row |= {f"{data}_accuracy_{end}": report["accuracy"][end] for end in ("low", "high")}
        for figure in set(FIGURES) - {"accuracy_low", "accuracy_high"}:
            found = report[figure]
            row[f"{data}_{figure}"] = found["mean"] if isinstance(found, dict) else found
    return {**row, "tokens": judge.reasoner.counts.tokens_per_reading if judge.reasoner is not None else 0.0}


def main() -> None:
    """Measure what is missing, then print the table."""
    print(table(make_missing(run_options(__doc__, "runs/smollm2_judges", ROWS), measure), "judge", COLUMNS))


if __name__ == "__main__":
    main()
