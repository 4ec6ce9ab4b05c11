"""Coefficient of the KL penalty: fixed, or adapted to a target."""

from typing import Any, Protocol

from prl.config import KLPenalty


class KLController(Protocol):
    """Coefficient of the KL term, with a state for checkpoints."""

    coef: float

    def update(self, kl: float, num_sequences: int) -> None:
        """Adapt to the measured KL per sequence (nats) of `num_sequences` rollouts."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""


class FixedKL:
    """Constant coefficient."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl: float, num_sequences: int) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficient."""
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: a constant coefficient comes from the configuration."""


class AdaptiveKL:
    """Proportional controller towards `target` nats per sequence. Source: Ziegler et al. 2019 (1909.08593), 2.2.

    coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_sequences / horizon), at least a tenth of what it was
    """

    def __init__(self, coef: float, target: float, horizon: int) -> None:
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, kl: float, num_sequences: int) -> None:
        """Take one proportional step."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= max(1 + error * num_sequences / self.horizon, 0.1)

    def state_dict(self) -> dict[str, Any]:
        """Return the adapted coefficient."""
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved coefficient."""
        self.coef = float(state["coef"])


def kl_controller(kl: KLPenalty) -> KLController:
    """Choose the controller: a constant coefficient, or one that adapts to `kl.target` nats per sequence."""
    return FixedKL(kl.coef) if kl.target is None else AdaptiveKL(kl.coef, kl.target, kl.horizon)
