"""Linear layers on few rows, on a CPU: weights laid out once as oneDNN reads them, for many passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear

from prl.models.collective import gathers_weights

LEAST_BYTES = 64 << 20
"""Smaller models stay in the processor's caches, where the layout does not matter."""
MOST_MEMORY = 1 / 8
"""Share of the memory that the copies may take: of all of it, since the free part is another when a run resumes."""
LEAST_PASSES = 16
"""Passes that a layout is worth: it costs about what three of them cost."""


@contextmanager
def packed_linears(model: Any, rows: int, passes: int) -> Iterator[int]:
    """Have the linear layers of a model read copies of their weights, as long as the block lasts.

    torch multiplies a few rows by a weight through a matrix product that is made for many rows. oneDNN's product on a
    weight in a layout of its own is faster. Results are equal up to rounding. The copies take as much memory as the
    weights; nothing is changed where that is much of the machine's. Weights must not change inside the block.

    Args:
        model: its layers are found by type; only plain linear ones in float32 on a CPU are changed.
        rows: rows of a typical pass.
        passes: passes to come; with few of them nothing is changed.

    Yields:
        number of layers that were changed.
    """
    layers = layers_to_pack(model, rows, passes)
    if layers and not _is_right(layers[0], rows):
        layers = []
    try:
        for layer in layers:
            layer.__dict__["forward"] = _packed(layer, rows)
        yield len(layers)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def layers_to_pack(model: Any, rows: int, passes: int) -> list[nn.Linear]:
    """List the layers that `packed_linears` changes where oneDNN has the operators: copies of all fit, or none."""
    layers = _layers(model) if passes >= LEAST_PASSES and rows > 1 else []
    size = sum(layer.weight.nbytes for layer in layers)
    return layers if LEAST_BYTES <= size <= MOST_MEMORY * psutil.virtual_memory().total else []


def _layers(model: Any) -> list[nn.Linear]:
    if torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available() or gathers_weights(model):
        return []
    return [each for each in model.modules() if type(each) is nn.Linear and _is_plain(each)]


def _is_plain(layer: nn.Linear) -> bool:
    weight = layer.weight.detach()
    whole = type(weight) in (Tensor, FakeTensor) and weight.numel() == layer.in_features * layer.out_features
    return whole and weight.device.type == "cpu" and weight.dtype == torch.float32 and "forward" not in layer.__dict__


def _packed(layer: nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    bias, weight = layer.bias, layer.weight.detach()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def forward(inputs: Tensor) -> Tensor:
        if inputs.numel() == layer.in_features:  # a single row has a product of its own in torch, which is fast
            return linear(inputs, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")

    return forward


def _is_right(layer: nn.Linear, rows: int) -> bool:
    """Try the product on one layer: the operators are not public, and another release may lack or change them."""
    inputs = torch.linspace(-1, 1, rows * layer.in_features).view(rows, -1)
    try:
        found = _packed(layer, rows)(inputs)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, linear(inputs, layer.weight.detach(), layer.bias), rtol=1e-3, atol=1e-3)
