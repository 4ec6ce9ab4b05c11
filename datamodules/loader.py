"""Loader whose workers survive a signal to the process group, so that the trainer can save before it stops."""

import os
from typing import Any

from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

from prl.system.signals import leave_signals_to_parent, stop_signals_wait


class SteadyLoader(DataLoader):
    """A DataLoader whose workers leave SIGTERM, SIGUSR1 and Ctrl-C to the trainer; needs `start_worker`.

    Signals are blocked while workers start, so that they reach no worker that does not handle them yet.
    """

    def __iter__(self) -> Any:
        with stop_signals_wait():
            return super().__iter__()


def start_worker(number: int) -> None:
    """Leave signals to the trainer, then seed the worker as Lightning does."""
    leave_signals_to_parent()
    if int(os.environ.get("PL_SEED_WORKERS", 0)):  # as Lightning seeds the workers of other loaders
        pl_worker_init_function(number)
