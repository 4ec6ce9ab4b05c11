"""Train the models of the studies: where they start, settings as arguments, and what a training costs."""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import fit_model

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
