"""The implementations of `torch.ops.prl`, each of which tests can call although another one has precedence."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from prl import ops
from tests.helpers.gae_oracle import Problem

OPERATORS = ("gae", "shaped_gae")
# Where the dispatcher would go if no compiled kernel were there.
REFERENCE = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)


@dataclass(frozen=True)
class Implementation:
    """The plain reference ("torch"), or a compiled kernel, on tensors of one device type."""

    name: str
    device: str

    def __call__(self, problem: Problem, operator: str) -> tuple[Tensor, ...]:
        """Results of an operator on the implementation's device, to which the problem is moved."""
        return self.call(problem.map_tensors(lambda _, x: x.to(self.device)), operator)

    def call(self, problem: Problem, operator: str) -> tuple[Tensor, ...]:
        """Results of an operator, its tensors wherever they are."""
        overload = getattr(torch.ops.prl, operator).default
        arguments = problem.arguments(operator)
        return overload.redispatch(REFERENCE, **arguments) if self.name == "torch" else overload(**arguments)

    def affordable(self, rows: int, width: int) -> tuple[int, int]:
        """Shorten the rows of the shape for the reference, whose time grows with each token."""
        return (rows, min(width, 60)) if self.name == "torch" else (rows, width)


IMPLEMENTATIONS = {
    "torch": Implementation("torch", "cpu"),
    "cpp": Implementation("cpp", "cpu"),
    "torch-cuda": Implementation("torch", "cuda"),
    "cuda": Implementation("cuda", "cuda"),
}


def usable(name: str) -> Implementation:
    """Return an implementation, or skip with the reason where this process does not have it."""
    implementation = IMPLEMENTATIONS[name]
    if implementation.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    kernel = ops.status()[implementation.name]
    if not kernel.active:
        pytest.skip(f"{kernel.name}: {kernel.reason}")
    return implementation
