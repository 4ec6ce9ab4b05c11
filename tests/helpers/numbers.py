"""Numbers that two ways of computing in float32 must agree in."""

import torch
from torch import Tensor

ROUNDING = 1e-5
"""Some 80 roundings of float32 (2^-23), for what a few layers add up in another order, as each processor does."""


def assert_same_numbers(found: Tensor, expected: Tensor, rounding: float = ROUNDING, **message: object) -> None:
    """Compare two tensors within roundings of their largest number: sums of large numbers differ by more.

    Args:
        found: any shape and dtype.
        expected: the same shape, of any dtype.
        rounding: what may differ, in units of the largest number of `expected`, or of 1 where that is smaller.
        message: `msg` of `torch.testing.assert_close`.
    """
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected.double(), atol=rounding * max(1.0, largest), rtol=0, **message)  # type: ignore[arg-type]
