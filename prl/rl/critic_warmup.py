"""Length of the critic's warm-up before the policy learns (value pre-training, VC-PPO 2503.01491).

Iterations of the warm-up leave the policy as it is: `lightning_modules/policy_update.py`.
"""

from typing import Any


class CriticWarmup:
    """Warm-up that ends after `budget` iterations, or once the critic explains enough of a fresh rollout's returns.

    Args:
        budget: iterations at most.
        until: explained variance that ends the warm-up early; never when None.
    """

    def __init__(self, budget: int, until: float | None = None) -> None:
        self.budget, self.until = budget, until
        self.ended_at: int | None = None
        """First iteration in which the policy learns; None while unknown."""

    @property
    def length(self) -> int:
        """Iterations of the warm-up, as far as is known."""
        return self.budget if self.ended_at is None else self.ended_at

    def is_active(self, iteration: int) -> bool:
        """Return whether only the critic learns in an iteration, counted from 0."""
        return iteration < self.length

    def observe(self, iteration: int, explained_variance: float) -> None:
        """Observe the explained variance of an iteration's rollout, measured before the critic learns from it."""
        if self.until is not None and self.is_active(iteration) and explained_variance >= self.until:
            self.ended_at = iteration

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration of an early end; None without one."""
        return {"ended_at": self.ended_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.ended_at = state["ended_at"]
