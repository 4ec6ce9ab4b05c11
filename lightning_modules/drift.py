"""Track the drift of the log-probabilities of chosen and rejected responses from their start."""

import math
from collections import deque
from statistics import fmean, stdev
from typing import Any

START = 20
"""Batches whose mean is the start, where no reference gives the start of each response."""
WINDOW = 50
"""Batches that a warning averages over."""
SMALL = 0.01
"""Drift in nats per response that is ignored: rounding, and steps of a warm-up."""


class DriftMonitor:
    """Tracks the mean log-probability of chosen and rejected responses, and warns once when that of chosen falls.

    A preference loss also falls when rejected responses lose more than chosen ones. Then the policy moves its mass to
    texts that are neither (2310.12036, 2402.13228). The rule: over the last 50 batches the mean
    drift of chosen responses is negative by more than two standard errors of the batches' means and by more than 0.01
    nats per response.

    Args:
        from_reference: whether observations are log-ratios to the model that the policy started from. Otherwise the
            mean of the first 20 batches is the start.
    """

    def __init__(self, from_reference: bool) -> None:
        self.from_reference = from_reference
        self._first: list[list[float]] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._has_warned = False

    def observe(self, chosen: float, rejected: float) -> dict[str, float]:
        """Add the mean of a batch and return both drifts, nats per response; empty before the start is known."""
        if not self.from_reference and len(self._first) < START:
            self._first.append([chosen, rejected])
            return {}
        start = [0.0, 0.0] if self.from_reference else [fmean(each) for each in zip(*self._first, strict=True)]
        drift = {"drift/chosen": chosen - start[0], "drift/rejected": rejected - start[1]}
        self._recent.append(drift["drift/chosen"])
        return drift

    def warning(self) -> str | None:
        """Return a warning, once in a run; None otherwise."""
        if self._has_warned or len(self._recent) < WINDOW:
            return None
        mean, error = fmean(self._recent), stdev(self._recent) / math.sqrt(WINDOW)
        if not mean < -max(2 * error, SMALL):
            return None
        self._has_warned = True
        return (
            f"chosen responses have become less probable than at the start: {mean:.3g} nats per response over the last "
            f"{WINDOW} batches. The margin grows because rejected ones fall faster, and the mass goes to other texts. "
            "Lower the learning rate, hold the policy closer to the reference (a larger beta), or take an objective "
            "with a term on the chosen responses; docs/methods/preference.md"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save."""
        return {"first": self._first, "recent": list(self._recent), "has_warned": self._has_warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._first, self._has_warned = state["first"], state["has_warned"]
        self._recent = deque(state["recent"], maxlen=WINDOW)
