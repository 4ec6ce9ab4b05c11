"""Trainings of the studies: by the command that a user would type, once each, and quietly."""

from pathlib import Path
from typing import Any

from benchmarks.online_inputs import fit_model, read_rows, write_rows

QUICKSTART = Path("runs/quickstart")
"""A finished quickstart: its world's tokenizer, and the supervised policy that most models start from."""
MODEL = "--model.init_args."

__all__ = ["MODEL", "QUICKSTART", "as_arguments", "fit_model", "read_rows", "write_rows"]


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """Write settings as arguments of the command line."""
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]
