"""Errors of a model of random weights, whose sizes are settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from prl.config import ModelSource


@contextmanager
def sizes_named(source: ModelSource) -> Iterator[None]:
    """Name the setting where transformers refuses sizes. Raises ValueError."""
    try:
        yield
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = str(error.__cause__ or error).partition(" Should contain one of")[0]  # a list of all that it knows
        raise ValueError(_told(source, reason)) from None


def check_config_names(config: Any, source: ModelSource) -> None:
    """Refuse settings that this kind of model does not have: transformers keeps and ignores them. Raises ValueError."""
    known = type(config)()
    for name in source.config or {}:
        # Settings of rotary positions are taken and kept in rope_parameters; a misspelt name is kept as it is.
        if hasattr(config, name) and not hasattr(known, name):
            near = get_close_matches(name, list(known.to_dict()), 1, 0.6)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{config.model_type} has no setting {name}{meant}")


def _told(source: ModelSource, reason: str) -> str:
    found = ", ".join(f"{name}: {value}" for name, value in dict(source.config or {}).items())
    return f"the model's config ({found}) makes no model: {reason}"
