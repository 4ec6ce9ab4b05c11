"""Random states in the checkpoint: Lightning saves none, so a resumed run would draw other samples."""

import logging
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from prl.checkpoints.random_states import random_states, set_random_states
from prl.distributed import gathered, rank, world_size

log = logging.getLogger(__name__)


class RandomStates(Callback):
    """Saves the random states of every process, and restores them before the first batch after a resume.

    They are not restored earlier, because building models and loaders draws random numbers too.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._fresh = True
        self._cuda_seed: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Collect the states of all ranks, in order; call it on every rank."""
        own = self._pending or random_states()  # a resumed run that trains no batch passes on its states
        return {"ranks": gathered(own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep this rank's states for the first batch.

        With another number of processes the draws of each cannot be continued: all start from the first process's
        state, reproducibly.
        """
        ranks = state_dict["ranks"]
        if len(ranks) == world_size():
            self._pending = ranks[rank()]
            return
        if rank() == 0:
            log.warning(
                "the checkpoint was written by %d processes, this run has %d: data, weights and optimizer go on as "
                "they were, what is sampled is drawn anew",
                *(len(ranks), world_size()),
            )
        generator = torch.Generator()
        generator.set_state(ranks[0]["torch"].cpu())
        seed = int(torch.randint(2**62, (), generator=generator))
        generator.manual_seed(seed + rank())
        self._pending = {**ranks[0], "torch": generator.get_state(), "cuda": []}
        self._cuda_seed = seed + rank()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Continue the draws of the interrupted run."""
        if self._pending is not None:
            set_random_states(self._pending)
            self._pending = None
            if self._cuda_seed is not None and torch.cuda.is_available():
                torch.cuda.manual_seed_all(self._cuda_seed)
                self._cuda_seed = None
        elif self._fresh and rank() > 0:
            torch.manual_seed(torch.initial_seed() + rank())  # or every rank would sample with the same draws
        self._fresh = False
