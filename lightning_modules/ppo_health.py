"""Keeps numbers that are not finite out of the weights, saves their batch, and tells what else is wrong."""

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.step_health import save_batch
from prl.config import Health
from prl.distributed import rank
from prl.rl.health import NOT_FINITE, HealthError, HealthRecord, not_finite
from prl.types import Experience, PromptBatch, Scores

if TYPE_CHECKING:
    from lightning_modules.pairwise_ppo import PairwisePPOModule

log = logging.getLogger(__name__)


class PPOHealth:
    """Looks at every iteration; what it decides, all ranks decide alike, since it only reads numbers agreed on."""

    def __init__(self, module: "PairwisePPOModule", limits: Health) -> None:
        self.module, self.record = module, HealthRecord(limits)
        self._current: dict[str, Any] = {}

    def is_sound(self, batch: PromptBatch, responses: list[str], scores: Scores, experience: Experience) -> bool:
        """Whether an update may learn from this; if not, it is saved, counted and logged.

        A NaN of the judge is a judgement that failed, which is left out of the experience already.

        Raises:
            HealthError: when too many updates were left out.
        """
        tensors = {
            "margins": _margins(scores),
            "scores": experience.scores,
            "old_logprobs": experience.old_logprobs,
            "ref_logprobs": experience.ref_logprobs,
            "values": experience.values,
            "advantages": torch.stack([experience.advantages, experience.returns]),
        }
        self._current = {
            **{"prompts": batch.prompts, "anchors": [list(anchors) for anchors in batch.anchors]},
            **{"responses": responses, **tensors, **_tensors_of(experience.rollout)},
        }
        found = not_finite({name: tensor.to(experience.scores.device) for name, tensor in tensors.items()})
        if not found:
            return True
        self._left_out(next(kind for kind in NOT_FINITE if kind in found), found)
        self.module.log_dict(self.record.numbers(), rank_zero_only=True, batch_size=len(batch))
        return False

    def allows_step(self, stats: dict[str, float]) -> bool:
        """Whether the gradients may reach the weights; if not, the batch is saved and the step counted.

        Args:
            stats: what all ranks agreed on about a minibatch: losses, ratios, the norm of the gradients.

        Raises:
            HealthError: when too many updates were left out.
        """
        found = {name: value for name, value in stats.items() if not math.isfinite(value)}
        if found:
            self._left_out("step", found)
        return not found

    def _left_out(self, kind: str, found: dict[str, Any]) -> None:
        """Save, count and tell; stop the run at the limit."""
        self.record.skipped += 1
        iteration, limit = self.module.batches_done() + 1, self.record.limits.max_skipped
        values = ", ".join(f"{name} ({value})" for name, value in found.items())
        path = save_batch(
            self.module.trainer, {"kind": kind, "sentence": NOT_FINITE[kind], "found": values, **self._current}
        )
        sentence = f"batch {iteration}: {NOT_FINITE[kind]}. Not finite: {values}; the batch is in {path}"
        if self.record.skipped >= limit:
            raise HealthError(
                f"{sentence}. {self.record.skipped} updates had to be left out (health.max_skipped), so the run stops; "
                "no such number reached the weights, and the last checkpoint is good"
            )
        if rank() == 0:
            log.warning("%s. The update is left out; %d more, and the run stops", sentence, limit - self.record.skipped)

    def watch(self, numbers: dict[str, float]) -> dict[str, float]:
        """Tell what the numbers of an iteration show, and return the counts to log beside them."""
        for finding in self.record.watch(numbers):
            if rank() == 0:
                times = self.record.counts[finding.kind]
                log.warning("batch %d: %s (time %d)", self.module.batches_done() + 1, finding.sentence, times)
        return self.record.numbers()


def _margins(scores: Scores) -> Tensor:
    """Of the comparisons that did not fail: [2, N], or nothing."""
    if scores.verdict is None:
        return scores.values.new_zeros(0)
    known = scores.verdict.select(scores.verdict.judged)
    return torch.stack([known.margin_ab, known.margin_ba])


def _tensors_of(record: Any) -> dict[str, Tensor]:
    return {name: value for name, value in vars(record).items() if isinstance(value, Tensor)}
