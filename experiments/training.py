"""Train the models of the studies: where they start, settings as arguments, and what a training costs."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import fit_model
from benchmarks.runs import missing_runs

QUICKSTART = Path("runs/quickstart")
"""A finished quickstart: its world's tokenizer, and the supervised policy that most models start from."""


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """Write settings as arguments of the command line."""
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def timed_fit(run: Path, *args: str) -> tuple[Path, float]:
    """Train the model of a run, unless it is there.

    Returns:
        Its folder, and the processor seconds that the training took, which the run folder keeps.
    """
    cost, began = run / "cpu_seconds.json", time.process_time()
    if not cost.exists():
        fit_model(run, *args)
        cost.write_text(json.dumps(time.process_time() - began))
    return run / "model", json.loads(cost.read_text())


def best_setting(
    results: Path,
    name: str,
    tried: Iterable[float],
    seed: int,
    train: Callable[[float], dict[str, Any]],
    quality: Callable[[dict[str, Any]], float],
    factor: float,
) -> float:
    """Return the setting of an arm whose run is best; runs that the results file has are not repeated.

    A best one at an end of those tried may have a better one beyond it, so the search goes on there; zero is an end by
    itself.

    Args:
        results: one line a run, its variant is the name with the setting behind it.
        name: of the arm.
        tried: values of the setting.
        seed: of every run of the search; no table uses it.
        train: makes the line of a run with a setting.
        quality: of a line; the highest one is best.
        factor: from one setting to the next where the search goes on.
    """
    settings = {f"{name} {setting}": setting for setting in tried}
    while True:
        wanted = [(variant, seed) for variant in settings]
        lines = missing_runs(results, wanted, lambda variant, _: train(settings[variant]))
        own = [line for line in lines if (line["variant"], line["seed"]) in wanted]
        best = settings[max(own, key=quality)["variant"]]
        low, high = min(settings.values()), max(settings.values())
        if best == 0 or low < best < high:
            return best
        further = best * factor if best == high else best / factor
        settings[f"{name} {further}"] = further
