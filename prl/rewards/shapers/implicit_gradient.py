"""Gradient of an outer objective through the optimum of an inner one, by the implicit function theorem."""

from collections.abc import Callable

import torch
from torch import Tensor


def neumann_inverse(product: Callable[[Tensor], Tensor], vector: Tensor, terms: int, step: float) -> Tensor:
    """Approximate M^-1 v by step * sum_k (I - step * M)^k v over `terms` terms.

    The series ends at M^-1 v where all eigenvalues of M are between 0 and 2 / step, or M is singular and v in its
    range. It diverges for a negative one: at a maximum it is minus the Hessian that can be inverted so.

    Args:
        product: v -> M v.
        vector: v, of any shape.
        terms: of the series, at least 1; one term takes M for a multiple of I.
        step: scale of M.
    """
    term, total = vector, vector
    for _ in range(terms - 1):
        term = term - step * product(term)
        total = total + term
    return step * total


def implicit_gradient(
    inner: Callable[[Tensor, Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    theta: Tensor,
    phi: Tensor,
    terms: int,
    step: float = 1.0,
) -> Tensor:
    """Compute d outer(theta*(phi)) / d phi, where theta*(phi) is a maximum of inner(theta, phi) over theta.

    With H = d2 inner / d theta2 and A = d2 inner / d theta d phi at the maximum, d theta* / d phi = -H^-1 A, so that
    the gradient is A^T (-H)^-1 d outer / d theta. Minus the Hessian is inverted by `neumann_inverse`, from products
    with vectors alone.

    Args:
        inner: (theta, phi) -> the objective that theta maximises, twice differentiable.
        outer: theta -> the objective that phi is to raise.
        theta: the maximum, of any shape.
        phi: what the inner objective depends on, of any shape.
        terms: of the series.
        step: of the series; below 2 / (largest eigenvalue of minus the Hessian).
    """
    with torch.enable_grad():
        theta, phi = (each.detach().requires_grad_() for each in (theta, phi))
        (slope,) = torch.autograd.grad(inner(theta, phi), theta, create_graph=True)
        (wanted,) = torch.autograd.grad(outer(theta), theta)

        def product(vector: Tensor) -> Tensor:
            return -torch.autograd.grad(slope, theta, vector, retain_graph=True)[0]

        (found,) = torch.autograd.grad(slope, phi, neumann_inverse(product, wanted, terms, step))
    return found
