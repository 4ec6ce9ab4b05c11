"""Claim (a): a generative pairwise judge beats a Bradley-Terry model, and is better calibrated.

The protocol is docs/results/claims/judges.md. Needs runs/quickstart with its world and supervised stage (`prl
quickstart --only world`, then `--only supervised`). Every cell is a law of preferences (worlds.py), an error rate, a
number of pairs and a start; every arm learns from the same pairs in the same number of steps, at the learning rate
that had the least negative log-likelihood on pairs of training prompts kept for that: among RATES, and beyond them
where the best is the first or last. Each run is a line in experiments/results/judges.jsonl and is not repeated.

    python -m experiments.judges --seeds 5
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import read_rows, write_rows
from benchmarks.runs import missing_runs, run_options
from experiments.figures import draw_judges
from experiments.pages import IMAGES, publish
from experiments.training import QUICKSTART, as_arguments, best_setting, timed_fit
from experiments.verdicts import every_run, judge_tables, search_table
from experiments.worlds import labelled_pairs, true_pairs

RESULTS = Path("experiments/results/judges.jsonl")
TUNING = RESULTS.with_name("judges_tuning.jsonl")
OUT = Path("runs/claims/judges")
RATES = (7.5e-4, 1.5e-3, 3e-3, 6e-3)
TEST_PAIRS, TUNING_PAIRS = 2000, 1000
TUNING_SEED = 99
"""Of the pairs and weights with which learning rates are searched; no seed of the study."""
SHOWN = ("reverse", "upper", "double", "add", "next")
UNSEEN = ("sort", "ends")


@dataclass(frozen=True)
class Cell:
    """One condition of the study."""

    regime: str = "paired"
    error: float = 0.02
    pairs: int = 16_000
    steps: int = 800
    scratch: bool = False
    shift: bool = False
    """Train on the tasks SHOWN and test on those UNSEEN."""


CELLS: dict[str, Cell] = {
    "paired": Cell(),
    "scalar": Cell("scalar"),
    "scaled": Cell("scaled"),
    "cyclic": Cell("cyclic"),
    "no errors": Cell(error=0.0),
    "10 % errors": Cell(error=0.1),
    "25 % errors": Cell(error=0.25),
    "4,000 pairs": Cell(pairs=4_000),
    "64,000 pairs": Cell(pairs=64_000, steps=2000),
    "from scratch": Cell(scratch=True),
    "unseen tasks": Cell(shift=True),
}
PRIMARY, VERDICT_ONLY = "paired", "generative, verdict only"
"""The cell that decides, and the arm that is trained there alone."""
ARMS: dict[str, tuple[str, ...]] = {
    "generative": ("configs/quickstart/generative_reward.yaml",),
    VERDICT_ONLY: ("configs/quickstart/generative_reward.yaml",),
    "Bradley-Terry": ("configs/quickstart/bradley_terry.yaml",),
    "GPM": ("configs/quickstart/bradley_terry.yaml", "configs/methods/general_preference.yaml"),
}
SCRATCH: dict[str, Any] = {
    "model.init_args.model.path": "null",
    "model.init_args.model.config": (
        "{model_type: llama, hidden_size: 128, intermediate_size: 256, num_hidden_layers: 3, num_attention_heads: 4, "
        "num_key_value_heads: 4, max_position_embeddings: 256, tie_word_embeddings: true}"
    ),
    "model.init_args.model.tokenizer": str(QUICKSTART / "world" / "tokenizer"),
}


def settings_of(arm: str, cell: Cell, seed: int, rate: float, pairs: Path) -> list[str]:
    """List the arguments of one training."""
    settings: dict[str, Any] = {
        "seed_everything": seed,
        "data.init_args.seed": seed,
        "trainer.max_steps": cell.steps,
        "trainer.limit_val_batches": 0,
        "checkpoint.every_n_batches": cell.steps,
        "model.init_args.passport_pairs": 0,
        "model.init_args.optimization.learning_rate": rate,
        "model.init_args.optimization.warmup": cell.steps // 20,
        "data.init_args.train.path": pairs,
        "data.init_args.validation.path": QUICKSTART / "world" / "pairs.validation.jsonl",
    }
    settings |= SCRATCH if cell.scratch else {"model.init_args.model.path": QUICKSTART / "supervised" / "model"}
    if arm.startswith("generative"):
        settings |= {"data.init_args.attacks": "null", "model.init_args.text_coef": 0.0 if arm == VERDICT_ONLY else 1.0}
    configs = [text for config in ARMS[arm] for text in ("--config", config)]
    return [*configs, *as_arguments(settings)]


def train(arm: str, cell: Cell, seed: int, rate: float, out: Path) -> tuple[Path, float]:
    """Train one judge on pairs of its own seed, unless it is there; return its folder and the processor seconds."""
    families = SHOWN if cell.shift else ()
    name = f"{cell.regime}.{cell.error}.{cell.pairs}.{'shown' if cell.shift else 'all'}.{seed}"
    path = out / "pairs" / f"{name}.jsonl"
    if not path.exists():
        write_rows(path, labelled_pairs(str(seed), cell.pairs, cell.regime, cell.error, families))
    start = "scratch" if cell.scratch else "supervised"
    run = out / f"{arm.replace(', ', '_').replace(' ', '_')}.{name}.{start}.{rate}"
    return timed_fit(run, *settings_of(arm, cell, seed, rate, path))


def measure(folder: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Hold a judge against the law that labels follow: accuracy of the better response, likelihood, calibration."""
    from prl.data import PreferencePair
    from prl.evaluation.judge.report import judge_report
    from prl.judge import load_judge
    from prl.judge.examination import judge_pairs

    records = [record for row in rows for record in PreferencePair.parse(row)]
    report = judge_report(judge_pairs(load_judge(folder), records), resamples=1)
    figures = ("accuracy", "nll", "nll_after_temperature", "ece", "ece_after_temperature", "flip_rate", "order_gap")
    return {name: each["mean"] if isinstance(each := report[name], dict) else each for name in figures}


def tuned(arm: str, cell: Cell, out: Path) -> float:
    """Return the learning rate of an arm, searched on training prompts of the primary cell's law, for each start."""
    search = Cell(scratch=cell.scratch)

    def try_rate(rate: float) -> dict[str, Any]:
        folder, seconds = train(arm, search, TUNING_SEED, rate, out)
        rows = true_pairs("tuning", TUNING_PAIRS, search.regime, search.error, "train")
        return {"rate": rate, "seconds": seconds, **measure(folder, rows)}

    name = f"tuning {'scratch' if cell.scratch else 'supervised'}: {arm}"
    return best_setting(TUNING, name, RATES, TUNING_SEED, try_rate, lambda line: -line["nll"], factor=2)


def run(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Train and measure one judge."""
    cell_name, _, arm = name.partition(": ")
    cell = CELLS[cell_name]
    rate = tuned(arm, cell, out)
    folder, seconds = train(arm, cell, seed, rate, out)
    rows = true_pairs("test", TEST_PAIRS, cell.regime, cell.error, families=UNSEEN if cell.shift else ())
    return {"rate": rate, "seconds": seconds, **measure(folder, rows)}


def main() -> None:
    """Run what is missing, then write tables, verdicts and figure of all runs that are there."""
    names = [f"{cell}: {arm}" for cell in CELLS for arm in ARMS if cell == PRIMARY or arm != VERDICT_ONLY]
    options = run_options(__doc__, str(OUT), names, seeds=5)
    lines = missing_runs(RESULTS, options.wanted, lambda name, seed: run(name, seed, options.out))
    draw_judges(lines, list(CELLS), list(ARMS), IMAGES / "judges.png")
    searches = search_table(read_rows(TUNING), "nll")
    publish("judges", judge_tables(lines, list(CELLS), list(ARMS)), every_run(lines, "accuracy"), searches)


if __name__ == "__main__":
    main()
