"""A function in two processes that reach each other by gloo, for tests of what must not depend on their number."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Call `work`, a function of a module, with the number of each process, and return what each gave."""
    # Forked from a server that has imported what they need; the imports of each took longer than the tests.
    mp.get_context("forkserver").set_forkserver_preload(["prl.cli.app"])
    mp.start_processes(_worker, args=(work, str(folder)), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{process}.pt") for process in range(2)]


def _worker(process: int, work: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=2)
    torch.save(work(process), f"{folder}/{process}.pt")
    dist.destroy_process_group()
