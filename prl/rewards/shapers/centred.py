"""Bounded functions of a reward centred on reference responses, beside the sigmoid of PAR."""

import math

import torch
from torch import Tensor

from prl.rewards.shapers.base import VerdictReading
from prl.verdict import Verdict


class CentredTanh(VerdictReading):
    """mean over m of tanh(r(x, y) - r(x, y_ref_m)): a baseline of PAR (2502.18770, authors' code); in (-1, 1).

    The references are the anchors of the response, as for `PAR`.
    """

    def read(self, verdict: Verdict) -> Tensor:
        """Squash the difference of the scalars: [N]."""
        return torch.tanh(verdict.win_logit)


class ShiftedSigmoid(VerdictReading):
    """mean over m of sigma(r(x, y) - r(x, y_ref_m) - shift): the baseline "sgfc" of PAR (2502.18770, authors' code).

    With `shift` 0 it is `PAR`. A shift upwards moves the steep part to rewards that are well above the reference.

    Args:
        shift: subtracted from the difference of the scalars.

    Raises:
        ValueError: for a shift that is not finite.
    """

    def __init__(self, shift: float = 3.0) -> None:
        if not math.isfinite(shift):
            raise ValueError(f"ShiftedSigmoid.shift is {shift}; expected a finite number")
        self.shift = shift

    def read(self, verdict: Verdict) -> Tensor:
        """Squash the difference of the scalars, less the shift: [N]."""
        return torch.sigmoid(verdict.win_logit - self.shift)


class CentredPolynomial(VerdictReading):
    """mean over m of p(r(x, y) - r(x, y_ref_m)), p a polynomial close to sigma: a baseline of PAR (2502.18770).

    As in the authors' code p has degree 5 and the least squared distance from sigma at 100 points of [-5, 5]; up to -5
    it is 0, and from 5 on it is 1. It shows whether the exact sigmoid matters, or its shape.
    """

    def __init__(self) -> None:
        points = torch.linspace(-5, 5, 100, dtype=torch.float64)
        powers = points[:, None] ** torch.arange(6)
        self._coefficients = torch.linalg.lstsq(powers, torch.sigmoid(points)[:, None]).solution[:, 0].tolist()

    def read(self, verdict: Verdict) -> Tensor:
        """Evaluate the polynomial at the difference of the scalars: [N]."""
        difference = verdict.win_logit
        value = torch.zeros_like(difference)
        for coefficient in reversed(self._coefficients):
            value = value * difference + coefficient
        return torch.where(difference <= -5, 0.0, torch.where(difference >= 5, 1.0, value))
