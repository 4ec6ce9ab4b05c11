"""Dropout of a model: off in use, restored in the config that is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def disable_dropout(model: nn.Module) -> None:
    """Switch every dropout off: the ratio of a policy and the verdict of a judge must be repeatable.

    The model keeps the original values for the config that is written with it.
    """
    own: list[tuple[Any, str, float]] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        config = getattr(module, "config", None)
        for holder in (module, config):
            for name, value in list(vars(holder).items()) if holder is not None else []:
                if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                    own += [(config, name, value)] if holder is config and value else []
                    setattr(holder, name, 0.0)
    if own:
        model._prl_own_dropout = own  # type: ignore[assignment]


@contextmanager
def using_dropout(model: nn.Module, share: float) -> Iterator[None]:
    """Drop this share inside the block, wherever the architecture has a dropout, in train mode alone.

    A backward pass behind the block is exact, unless it computes activations again (gradient checkpointing).

    Raises:
        ValueError: for a model without any dropout.
    """
    places: list[tuple[nn.Module, str]] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            places.append((module, "p"))
        named = [name for name, value in vars(module).items() if isinstance(value, float)]
        places += [(module, name) for name in named if "dropout" in name or name.endswith("pdrop")]
    if not places:
        raise ValueError(f"{type(model).__name__} has no dropout, so two passes would agree; choose another model")
    before = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, share)
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


@contextmanager
def own_dropout(model: Any) -> Iterator[None]:
    """Return the configs of a model with their original dropout."""
    own = getattr(model, "_prl_own_dropout", [])
    try:
        for config, name, value in own:
            setattr(config, name, value)
        yield
    finally:
        for config, name, _ in own:
            setattr(config, name, 0.0)
