"""When a run has seen its best: the lower bound of its win rate stands still while the judges grow apart (I-13)."""

from collections.abc import Mapping
from typing import Any

from prl.evaluation.frontier import MEASURES, common_measure


class Patience:
    """Counts validations since the lower bound of the win rate was highest.

    It reads the most trustworthy win rate of a validation, the one by which `prl frontier` chooses what to ship.

    Args:
        limit: validations without a higher lower bound after which the run ends; never when None.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.waited = 0
        self._best: float | None = None
        self._gap = 0.0

    def observe(self, numbers: Mapping[str, float]) -> None:
        """One more validation."""
        low, gap = numbers[f"{common_measure([numbers])}_lo"], numbers.get("goodhart_gap", 0.0)
        if self._best is None or low > self._best:
            self._best, self._gap, self.waited = low, gap, 0
        else:
            self.waited += 1

    def objection(self, numbers: Mapping[str, float]) -> str | None:
        """Why the run should end now, in words; None when it should go on.

        With a held-out judge the gap must also be larger than at the best validation: a win rate that only pauses is
        no reason, one that pauses while the training judge sees progress is.
        """
        if self.limit is None or self.waited < self.limit:
            return None
        gap = numbers.get("goodhart_gap")
        if gap is not None and gap <= self._gap:
            return None
        grown = "" if gap is None else f", and the gap between the judges grew from {self._gap:.3f} to {gap:.3f}"
        measure = MEASURES[common_measure([numbers])]
        return (
            f"for {self.waited} validations the lower bound of the win rate ({measure}) has not passed "
            f"{self._best:.3f}{grown}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"waited": self.waited, "best": self._best, "gap": self._gap}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.waited, self._best, self._gap = state["waited"], state["best"], state["gap"]
