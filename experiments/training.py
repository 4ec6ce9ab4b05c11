"""What the studies train from, and settings as arguments of the command line."""

from pathlib import Path
from typing import Any

QUICKSTART = Path("runs/quickstart")
"""A finished quickstart: its world's tokenizer, and the supervised policy that most models start from."""


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """Write settings as arguments of the command line."""
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]
