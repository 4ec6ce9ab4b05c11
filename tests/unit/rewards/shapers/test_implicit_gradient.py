"""The implicit gradient where it is known: of one number, of a quadratic form, of a policy under a KL."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prl.rewards.shapers.implicit_gradient import implicit_gradient, neumann_inverse


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_one_number_by_hand() -> None:
    def inner(theta: Tensor, phi: Tensor) -> Tensor:
        return -((theta - phi) ** 2) / 2

    def gradient(phi: float, **series: Any) -> float:
        return float(
            implicit_gradient(inner, lambda theta: -((theta - 2) ** 2) / 2, number(phi), number(phi), **series)
        )

    for phi in (-1.0, 0.5, 2.0, 3.0):
        assert gradient(phi, terms=1) == pytest.approx(2 - phi, abs=1e-6)  # the root is 2
        for step in (0.3, 1.0, 1.7):
            assert gradient(phi, terms=100, step=step) == pytest.approx(2 - phi, abs=1e-6)
    own = implicit_gradient(inner, lambda theta: theta, number(0.7), number(0.7), terms=1)
    assert float(own) == pytest.approx(1.0, abs=1e-6)  # d theta* / d phi


def test_the_series_is_of_minus_the_hessian() -> None:
    for step in (0.1, 0.5, 1.0, 1.9):
        assert float(neumann_inverse(lambda v: v, number(1.0), 400, step)) == pytest.approx(1.0, abs=1e-6)
        assert float(neumann_inverse(lambda v: -v, number(1.0), 400, step)) > 1e6  # the Hessian itself diverges
    assert abs(float(neumann_inverse(lambda v: v, number(1.0), 400, 2.1))) > 1e6
    assert [float(neumann_inverse(lambda v: v, number(1.0), terms, 0.5)) for terms in (1, 2, 3)] == [0.5, 0.75, 0.875]


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), size=st.integers(1, 4))
def test_a_quadratic_inner_objective_has_the_solved_gradient(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    root, mixed, wanted = (torch.randn(size, n, generator=generator, dtype=torch.float64) for n in (size, 3, 1))
    curve = root @ root.T / torch.linalg.matrix_norm(root, 2) ** 2 + torch.eye(size, dtype=torch.float64)  # minus H
    phi = torch.randn(3, generator=generator, dtype=torch.float64)
    found = implicit_gradient(
        lambda theta, phi: -theta @ curve @ theta / 2 + theta @ mixed @ phi,
        lambda theta: theta @ wanted[:, 0],
        torch.linalg.solve(curve, mixed @ phi),
        phi,
        terms=40,
        step=0.5,  # eigenvalues are between 1 and 2
    )
    torch.testing.assert_close(found, mixed.T @ torch.linalg.solve(curve, wanted[:, 0]), atol=1e-6, rtol=1e-6)


def test_it_works_within_no_grad_and_leaves_no_graph() -> None:
    with torch.no_grad():
        found = implicit_gradient(lambda t, p: -((t - p) ** 2) / 2, lambda t: t, number(1.0), number(1.0), terms=1)
    assert not found.requires_grad
