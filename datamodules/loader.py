"""A loader whose workers outlive a signal to the process group, so that the trainer can save before it stops."""

import os
from typing import Any

from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

from prl.signals import leave_signals_to_parent, stop_signals_wait


class SteadyLoader(DataLoader):
    """torch's, with workers that leave SIGTERM, SIGUSR1 and Ctrl-C to the trainer from their first moment on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"worker_init_fn": start_worker, **kwargs})

    def __iter__(self) -> Any:
        with stop_signals_wait():
            return super().__iter__()


def start_worker(number: int) -> None:
    """What each worker does first."""
    leave_signals_to_parent()
    if int(os.environ.get("PL_SEED_WORKERS", 0)):  # as Lightning does for loaders that do nothing first
        pl_worker_init_function(number)
