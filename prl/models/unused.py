"""Stubs for packages that other libraries would import without need."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deepspeed_left_alone() -> Iterator[None]:
    """Keep accelerate from importing DeepSpeed only to check whether a model is wrapped in its engine.

    The import takes a second or two and prints a warning. Nothing changes where DeepSpeed is in use.
    """
    unused = "deepspeed" not in sys.modules
    if unused:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if unused:
            sys.modules.pop("deepspeed", None)
