"""Early stopping: the lower bound of the win rate stagnates while the gap between the judges grows."""

from collections.abc import Mapping
from typing import Any

from prl.evaluation.policy.frontier import MEASURES, common_measure, is_extrapolated


class Patience:
    """Counts validations since the lower bound of the win rate was highest.

    The win rate is the one by which `prl frontier` chooses the checkpoint to ship.

    Args:
        limit: validations without a higher lower bound after which the run ends; never when None.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.waited = 0
        self._seen: dict[str, Any] = {"batch": -1, "measure": None, "best": None, "best_gap": None, "gap": None}

    def observe(self, batch: int, numbers: Mapping[str, float]) -> None:
        """Count one more validation; a resumed run may repeat its last one, which counts once.

        One whose rate is an extrapolation is left out: it could not be shipped, so it is no best one to wait from.

        Args:
            batch: training batches before the validation.
            numbers: figures of the validation, with `EXTRAPOLATED` where its responses are beyond equal lengths.
        """
        seen, measure = self._seen, common_measure([numbers])
        if batch <= seen["batch"]:
            return
        if is_extrapolated(measure, numbers):
            seen["batch"] = batch
            return
        low, gap = numbers[f"{measure}_lo"], numbers.get("goodhart_gap")
        seen |= {"batch": batch, "gap": gap}
        if seen["measure"] != measure or low > seen["best"]:
            seen |= {"measure": measure, "best": low, "best_gap": gap}
            self.waited = 0
        else:
            self.waited += 1

    def stop_reason(self) -> str | None:
        """Explain why the run should end now; None when it should continue.

        With a held-out judge the gap must also be larger than at the best validation: a pause of the win rate alone is
        no reason, a pause while the training judge reports progress is.
        """
        if self.limit is None or self.waited < self.limit:
            return None
        gap, before = self._seen["gap"], self._seen["best_gap"]
        if gap is not None and before is not None and gap <= before:
            return None
        grown = "" if gap is None else f", and the gap between the judges grew from {before or 0.0:.3f} to {gap:.3f}"
        return (
            f"for {self.waited} validations the lower bound of the win rate ({MEASURES[self._seen['measure']]}) has "
            f"not passed {self._seen['best']:.3f}{grown}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"waited": self.waited, **self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.waited = state["waited"]
        self._seen = {name: state[name] for name in self._seen}
