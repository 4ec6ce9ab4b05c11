"""Loader workers and signals: one to the whole process group is the trainer's alone."""

import multiprocessing
import signal
import subprocess
import time
from typing import Any

import pytest
import torch

from datamodules.loader import SteadyLoader, start_worker


class Squares(torch.utils.data.Dataset):
    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return index**2

    def __len__(self) -> int:
        return 40


def by_another(number: int, workers: list[Any]) -> None:
    """Send a signal from another process; torch's handler looks at the sender."""
    subprocess.run(["kill", f"-{number}", *(str(worker.pid) for worker in workers)], check=True)


@pytest.mark.parametrize("moment", ["at_once", "at_work"])
def test_workers_go_on_after_a_signal_to_all_processes(moment: str) -> None:
    loader = SteadyLoader(Squares(), num_workers=2, worker_init_fn=start_worker)
    batches = iter(loader)
    found = [next(batches)] if moment == "at_work" else []
    workers = [each for each in multiprocessing.active_children() if each.name.startswith("Process-")]
    assert len(workers) == 2
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        by_another(number, workers)
    found += batches
    assert torch.cat(found).tolist() == [index**2 for index in range(40)]
    del batches
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0


def test_the_process_that_started_them_still_ends_workers() -> None:
    batches = iter(SteadyLoader(Squares(), num_workers=1, worker_init_fn=start_worker))
    next(batches)
    [worker] = [each for each in multiprocessing.active_children() if each.name.startswith("Process-")]
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    del batches
