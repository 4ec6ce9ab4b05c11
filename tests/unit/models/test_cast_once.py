"""Weights cast once for a rollout in mixed precision: the same numbers, fewer casts, nothing stale afterwards."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prl.models.cast_once import cast_once
from tests.helpers.tiny import tiny_model


class WeightCasts(TorchDispatchMode):
    """Counts casts of float32 matrices."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_cast = function is torch.ops.aten._to_copy.default
        self.count += is_cast and args[0].dim() == 2 and args[0].dtype == torch.float32
        return function(*args, **(kwargs or {}))


@pytest.fixture
def model():
    found = tiny_model()
    for parameter in found.model.layers[0].parameters():
        parameter.requires_grad_(False)
    return found


def logits(model):
    with WeightCasts() as casts, torch.no_grad():
        return model(torch.arange(2, 8)[None]).logits, casts.count


def test_weights_are_cast_once_and_forgotten(model) -> None:
    trained = [each.requires_grad for each in model.parameters()]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plain, casts = logits(model)
        with torch.no_grad(), cast_once(model):
            first, once = logits(model)
            second, again = logits(model)
        assert (casts > 4, once, again) == (True, casts, 0)
        assert torch.equal(plain, first)
        assert torch.equal(plain, second)
        assert [each.requires_grad for each in model.parameters()] == trained
        model(torch.arange(2, 8)[None]).logits.sum().backward()  # of the weights, not of copies
        assert [each.grad is not None for each in model.parameters()] == trained
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        moved, _ = logits(model)
        with torch.no_grad(), cast_once(model):
            assert torch.equal(logits(model)[0], moved)
        assert not torch.equal(moved, plain)


def test_full_precision_is_left_alone(model) -> None:
    with torch.no_grad(), cast_once(model):
        assert logits(model)[1] == 0
        assert not torch.is_autocast_enabled("cpu")
