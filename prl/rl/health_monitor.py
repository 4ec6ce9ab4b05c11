"""Keep numbers that are not finite out of the weights, save their batch, and warn of other findings."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prl.config import Health
from prl.distributed import rank, world_size
from prl.rl.health import NOT_FINITE, HealthError, HealthRecord, not_finite
from prl.system.full_disk import save_tensors
from prl.types import Experience, Rollout, Scores

log = logging.getLogger(__name__)


class HealthMonitor:
    """Checks every iteration. All ranks decide alike, because decisions depend on reduced numbers only.

    Args:
        limits: limits of warnings and of skipped updates.
    """

    def __init__(self, limits: Health) -> None:
        self.record = HealthRecord(limits)
        self.folder: Path | None = None
        """Folder of saved batches; None saves none, as in a dry run."""
        self._current: dict[str, Any] = {}
        self._iteration = 0

    def is_sound(self, iteration: int, rollout: Rollout, scores: Scores, experience: Experience) -> bool:
        """Return whether an update may learn from the experience; if not, save and count the batch.

        A NaN of the judge is a failed judgement, which the experience leaves out already.

        Raises:
            HealthError: when too many updates were skipped.
        """
        estimated = [each for each in (experience.advantages, experience.returns) if each is not None]
        tensors = {
            "margins": _margins(scores),
            "rewards": experience.rewards,
            "old_logprobs": experience.old_logprobs,
            "ref_logprobs": experience.ref_logprobs,
            **({} if experience.values is None else {"values": experience.values}),
            "advantages": torch.stack(estimated),
        }
        self._iteration = iteration
        self._current = {
            **{"prompts": rollout.batch.prompts, "anchors": [list(anchors) for anchors in rollout.batch.anchors]},
            **{"responses": rollout.texts, **tensors},
            **{"prompt_ids": rollout.prompt_ids, "prompt_mask": rollout.prompt_mask},
            **_tensors_of(experience.rollout),
        }
        found = not_finite({name: tensor.to(experience.rewards.device) for name, tensor in tensors.items()})
        if found:
            self._leave_out(next(kind for kind in NOT_FINITE if kind in found), found)
        return not found

    def allows_step(self, stats: dict[str, float]) -> bool:
        """Return whether the optimizer may take a step; if not, save the batch and count the step.

        Args:
            stats: statistics of a minibatch, reduced over ranks: losses, ratios, the gradient norm.

        Raises:
            HealthError: when too many updates were skipped.
        """
        found = {name: value for name, value in stats.items() if not math.isfinite(value)}
        if found:
            self._leave_out("step", found)
        return not found

    def _leave_out(self, kind: str, found: dict[str, Any]) -> None:
        """Save the batch, count it and warn; end the run at the limit."""
        self.record.skipped += 1
        limit = self.record.limits.max_skipped
        values = ", ".join(f"{name} ({value})" for name, value in found.items())
        content = {"kind": kind, "sentence": NOT_FINITE[kind], "found": values, **self._current}
        kept = save_batch(self.folder, self._iteration, content)
        sentence = f"batch {self._iteration}: {NOT_FINITE[kind]}. Not finite: {values}; the batch is {kept}"
        if self.record.skipped >= limit:
            raise HealthError(
                f"{sentence}. {self.record.skipped} updates had to be left out (health.max_skipped), so the run stops; "
                "no such number reached the weights, and the last checkpoint is good"
            )
        if rank() == 0:
            log.warning("%s. The update is left out; %d more, and the run stops", sentence, limit - self.record.skipped)

    def watch(self, numbers: dict[str, float]) -> dict[str, float]:
        """Warn of the findings of an iteration, and return the counts to log."""
        for finding in self.record.watch(numbers):
            if rank() == 0:
                times = self.record.counts[finding.kind]
                log.warning("batch %d: %s (time %d)", self._iteration, finding.sentence, times)
        return self.record.numbers()


def save_batch(folder: Path | None, number: int, content: Mapping[str, Any]) -> str:
    """Save batch `number` (from 1), each rank its own rows; return the place as text."""
    if folder is None:
        return "not kept"
    suffix = f".rank{rank()}" if world_size() > 1 else ""
    path = folder / f"batch={number:06d}{suffix}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors({k: v.cpu() if isinstance(v, Tensor) else v for k, v in content.items()}, path)
    return f"in {path}"


def _margins(scores: Scores) -> Tensor:
    """Return the margins that were read of comparisons that did not fail: [M], or an empty tensor."""
    if scores.verdict is None:
        return scores.rewards.new_zeros(0)
    return scores.verdict.select(scores.verdict.judged).readings


def _tensors_of(record: Any) -> dict[str, Tensor]:
    return {name: value for name, value in vars(record).items() if isinstance(value, Tensor)}
