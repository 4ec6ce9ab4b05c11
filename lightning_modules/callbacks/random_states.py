"""Random states in the checkpoint: Lightning saves none, so a resumed run would draw other samples."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from prl.distributed import gathered, rank, world_size
from prl.randomness import random_states, set_random_states


class RandomStates(Callback):
    """Saves the states of every process and puts them back right before the first batch after a resume.

    Not earlier: building models and loaders draws random numbers too.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._fresh = True

    def state_dict(self) -> dict[str, Any]:
        """The states of all ranks, in order; called on every rank."""
        own = self._pending or random_states()  # a resumed run that trains no batch hands on what it was given
        return {"ranks": gathered(own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep this rank's states for the first batch.

        Raises:
            ValueError: when the run had another number of processes: nobody can continue its draws.
        """
        if len(state_dict["ranks"]) != world_size():
            raise ValueError(
                f"the checkpoint was written by {len(state_dict['ranks'])} processes, this run has {world_size()}; "
                "an exact resume needs the same number"
            )
        self._pending = state_dict["ranks"][rank()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Continue the draws of the interrupted run."""
        if self._pending is not None:
            set_random_states(self._pending)
            self._pending = None
        elif self._fresh and rank() > 0:
            torch.manual_seed(torch.initial_seed() + rank())  # or every rank would sample with the same draws
        self._fresh = False
