"""How long the critic learns alone before the policy moves (value pre-training, VC-PPO 2503.01491)."""

from typing import Any


class CriticWarmup:
    """Ends after `budget` iterations, or as soon as the critic explains enough of the returns of a fresh rollout.

    Args:
        budget: iterations at most.
        until: explained variance that ends it early; never when None.
    """

    def __init__(self, budget: int, until: float | None = None) -> None:
        self.budget, self.until = budget, until
        self.ended_at: int | None = None
        """The first iteration in which the policy learnt; None before."""

    @property
    def length(self) -> int:
        """Iterations that it takes, as far as is known."""
        return self.budget if self.ended_at is None else self.ended_at

    def is_active(self, iteration: int) -> bool:
        """Whether only the critic learns in this iteration, counted from 0."""
        return iteration < self.length

    def observe(self, iteration: int, explained_variance: float) -> None:
        """Take note of what the critic explained of this iteration's rollout, before it learnt from it."""
        if self.until is not None and self.is_active(iteration) and explained_variance >= self.until:
            self.ended_at = iteration

    def state_dict(self) -> dict[str, Any]:
        """When it ended, if it did before its budget."""
        return {"ended_at": self.ended_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        self.ended_at = state["ended_at"]
