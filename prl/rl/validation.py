"""Validation of a policy: win rates under the training judge and a held-out judge, their gap, and the KL."""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from prl.config import Validation
from prl.distributed import gathered, rank, world_size
from prl.evaluation.bootstrap import Interval
from prl.evaluation.policy.frontier import EXTRAPOLATED, beyond_equal_lengths
from prl.evaluation.policy.patience import Patience
from prl.evaluation.policy.report import goodhart_gap, judge_difference, policy_report, with_interval
from prl.evaluation.policy.validation_log import ComparisonRow
from prl.types import Rollout, Scores
from prl.verdict import Verdict

log = logging.getLogger(__name__)


class PolicyValidation:
    """Gathers the comparisons of a validation over all ranks, and reports them once.

    The state is the difference between the two judges in the first validation, where the gap is zero, and the number
    of validations since the best one.

    Args:
        settings: limits and patience.
        position: returns the number of completed training batches.
    """

    def __init__(self, settings: Validation, position: Callable[[], int]) -> None:
        self.settings, self._position = settings, position
        self.first: dict[str, float] | None = None
        self.patience = Patience(settings.patience)
        self._rows: list[ComparisonRow] = []
        self._components: dict[str, list[float]] = {}
        self._responses = 0
        self._batch, self._alarmed = 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save."""
        known = {"first": self.first, "alarmed": self._alarmed, "patience": self.patience.state_dict()}
        return {"batch": self._position(), **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.first, self._batch, self._alarmed = state["first"], state["batch"], state["alarmed"]
        self.patience.load_state_dict(state["patience"])

    @property
    def batch(self) -> int:
        """Training batches of the validated policy; `prl validate` reads the number from the checkpoint."""
        return max(self._position(), self._batch)

    # ---- one validation

    def start(self) -> None:
        """Reset the collected comparisons."""
        self._rows, self._responses = [], 0
        self._components = {}

    def add_components(self, scores: Scores) -> None:
        """Add the components of rewards that are compared with nothing."""
        for name, values in scores.components.items():
            self._components.setdefault(name, []).extend(values.tolist())

    def component_means(self) -> dict[str, float]:
        """Compute the mean of each component over all ranks; every rank must call it."""
        everywhere = gathered(self._components)
        found = {name: [each for own in everywhere for each in own.get(name, [])] for name in everywhere[0]}
        known = {name: [each for each in values if not math.isnan(each)] for name, values in found.items()}
        return {name: math.fsum(values) / max(len(values), 1) for name, values in known.items()}

    def add(self, rollout: Rollout, verdicts: dict[str, Verdict], response_index: Tensor, kl: Tensor) -> None:
        """Add the comparisons of a batch.

        Args:
            rollout: B responses with their anchors.
            verdicts: N comparisons under each judge; keys are the prefixes of their columns.
            response_index: [N] row of the response of each comparison.
            kl: [B] KL summed over each response, nats.
        """
        # Numbers that are unique over ranks: a response may have several rows, one for each anchor.
        numbers = [(self._responses + row) * world_size() + rank() for row in range(len(rollout))]
        self._responses += len(rollout)
        self._rows += _rows(numbers, rollout, verdicts, response_index, kl)

    def gather(self) -> list[ComparisonRow]:
        """Return the rows of all ranks, in an order that does not depend on ranks, and drop them."""
        rows = sorted((row for rows in gathered(self._rows) for row in rows), key=lambda row: row["row"])
        self._rows = []
        return rows

    def report(self, rows: list[ComparisonRow], *, has_heldout: bool, in_training: bool) -> dict[str, float]:
        """Compute the figures to log.

        Args:
            rows: rows of all ranks.
            has_heldout: whether a held-out judge judged them.
            in_training: count this validation in `patience`; `prl validate` repeats one and does not count.
        """
        numbers = policy_report(rows)
        if has_heldout:
            numbers |= self._gap(rows)
        if in_training:
            self.patience.observe(self.batch, {**numbers, EXTRAPOLATED: beyond_equal_lengths(rows)})
        return numbers | {"since_best": float(self.patience.waited)}

    def _gap(self, rows: list[ComparisonRow]) -> dict[str, float]:
        now = judge_difference(rows)
        gap = None if self.first is None else goodhart_gap(self.first, now)
        if gap is None:
            if self.first is not None:
                log.warning("no prompt of this validation was in the first one, so the gap between judges starts anew")
            self.first, gap = now, Interval(0.0, 0.0, 0.0)
        limit = self.settings.gap_limit
        alarm = limit is not None and gap.low > limit
        if alarm and not self._alarmed and rank() == 0:
            log.warning(
                "over-optimisation: since the first validation the training judge's win rate rose by %.2f (%.2f to "
                "%.2f) more than the held-out judge's, above validation.gap_limit %s. The policy learns what only the "
                "training judge likes: stop and ship an earlier checkpoint (`prl frontier`), raise kl.coef, or "
                "train the judge on samples of this policy",
                *(*gap, limit),
            )
        self._alarmed |= alarm
        return {**with_interval("goodhart_gap", gap), "goodhart_alarm": float(alarm)}


def _rows(
    numbers: list[int], rollout: Rollout, verdicts: dict[str, Verdict], response_index: Tensor, kl: Tensor
) -> Iterable[ComparisonRow]:
    anchors = [anchor for each in rollout.batch.anchors for anchor in each]
    lengths, truncated = rollout.response_mask.sum(1).tolist(), (~rollout.finished).tolist()
    columns: dict[str, list[float]] = {}
    for prefix, verdict in verdicts.items():
        columns[f"{prefix}margin"] = verdict.win_logit.tolist()
        columns[f"{prefix}p_win"] = verdict.win_prob.tolist()
        columns[f"{prefix}p_response_first"] = torch.sigmoid(verdict.margin_ab).tolist()
        columns[f"{prefix}p_anchor_first"] = (1 - torch.sigmoid(verdict.margin_ba)).tolist()
    for n, row in enumerate(response_index.tolist()):
        yield {
            "row": numbers[row],
            "prompt": rollout.batch.prompts[row],
            "response": rollout.texts[row],
            "anchor": anchors[n],
            **{name: values[n] for name, values in columns.items()},
            "length": lengths[row],
            "truncated": truncated[row],
            "kl": float(kl[row]),
        }
