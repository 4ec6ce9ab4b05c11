"""Lock of a run folder: one run at a time trains in it. The system frees the lock however its holder ends."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK = ".lock"
HOLDER = ".lock.pid"
"""File that names the holder; the lock file itself belongs to the library."""

_RANKS = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"),
    *("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK"),
)
"""Environment variables in which launchers give a process's number, before torch.distributed is set up."""


class RunInUseError(ValueError):
    """Raised for a run folder in which another process trains."""


def is_first_process() -> bool:
    """Return whether this is the first of the processes that a launcher started, or the only one."""
    return all(os.environ.get(name, "0") in ("", "0") for name in _RANKS)


@contextmanager
def run_lock(run: Path, option: str = "run_dir") -> Iterator[None]:
    """Hold the lock of a run folder, creating the folder; does nothing on any but the first process.

    Args:
        run: the folder.
        option: the option that names it, for errors.

    Raises:
        RunInUseError: while another process holds it.
    """
    lock = _acquired(run, option) if is_first_process() else None
    try:
        yield
    finally:
        if lock is not None:
            (run / HOLDER).unlink(missing_ok=True)
            lock.release()


def _acquired(run: Path, option: str) -> FileLock | None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunInUseError(f"{option} {run} cannot be made ({error.strerror}); choose another --{option}") from None
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(blocking=False)
        (run / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout:
        raise RunInUseError(
            f"{option} {run} is in use: {_holder(run)} writes into it. Wait for its end, stop it (on SIGTERM it saves "
            f"first), or choose another --{option}"
        ) from None
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        log.warning("%s cannot be locked (%s): see to it that no other process trains in it", run, error)
        return lock if lock.is_locked else None
    return lock


def _holder(run: Path) -> str:
    try:
        return (run / HOLDER).read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
