"""Batches with the totals of all batches of their optimizer step, for gradient accumulation."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from datamodules.loader import SteadyLoader


class StepLoader(SteadyLoader):
    """Reads the batches of an optimizer step together and yields them one by one, each with the totals of all.

    A mean over the rows or tokens of a step divides by their number in the step, which a single batch does not hold.
    The totals of this process are under the key `of_step`, as `TrainingModule.step_totals` defines them. Without
    accumulation batches are unchanged.

    Args:
        *args: arguments of torch's loader.
        trainer: the trainer, which knows the batches per step; the last step of an epoch may have fewer.
        **kwargs: arguments of torch's loader.
    """

    def __init__(self, *args: Any, trainer: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trainer = trainer

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        while step := list(islice(batches, self._num_left())):
            yield from self._told(step)

    def _num_left(self) -> int:
        """Count the batches up to the end of the current step, also after a resume within a step."""
        every = self.trainer.accumulate_grad_batches
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return int(max(1, min(every - done % every, self.trainer.num_training_batches - done)))

    def _told(self, step: list[Any]) -> list[Any]:
        if self.trainer.accumulate_grad_batches == 1:
            return step
        totals = [self.trainer.lightning_module.step_totals(batch) for batch in step]
        of_step = {name: torch.cat([each[name] for each in totals]) for name in totals[0]}
        return [{**batch, "of_step": of_step} for batch in step]
