"""Reports of failed processes: which failed first, and why. The others only notice a lost connection."""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from prl.checkpoints.position import batches_done, is_dry_run
from prl.distributed import rank, world_size
from prl.system.outputs import write_text
from prl.system.terminal import CAUSED_BY

log = logging.getLogger(__name__)


class FailureReport(Callback):
    """Writes `RUN_DIR/failures/rankN.txt` when one of several processes fails; the others' errors name the first.

    A process that waits for a lost one gets an error about a closed connection or a time-out; the cause is the error of
    the process that failed first.
    """

    def __init__(self) -> None:
        self._born = time.time()
        """Start time; older reports come from an earlier start."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Delete the reports of an earlier start."""
        if trainer.is_global_zero and not is_dry_run(trainer):
            for path, (when, _) in _told(_folder(trainer)).items():
                if when < self._born:
                    path.unlink()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Record whether this process failed first, or because another one did."""
        if world_size() == 1 or is_dry_run(trainer) or not isinstance(exception, Exception):
            return  # a requested stop is no failure
        folder = _folder(trainer)
        earlier = [told for told in _told(folder).values() if told[0] >= self._born]
        phase = getattr(pl_module, "current_phase", None)
        place = f"rank {rank()} of {world_size()}, batch {batches_done(trainer) + 1}" + (f", {phase}" if phase else "")
        reason = f"{type(exception).__name__}: {exception}"
        with contextlib.suppress(OSError):  # a full disk may be the failure itself
            write_text(folder / f"rank{rank()}.txt", f"{time.time():.3f} {place}: {reason}\n")
        if earlier:
            first = min(earlier)[1]
            setattr(
                exception, CAUSED_BY, f"{place} ended because another process failed first. {first} (here: {reason})"
            )
        else:
            log.error("%s failed: %s", place, reason)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "failures"


def _told(folder: Path) -> dict[Path, tuple[float, str]]:
    """Read when each process failed, and why."""
    found = {}
    for path in folder.glob("rank*.txt"):
        when, _, what = path.read_text(encoding="utf-8").partition(" ")
        found[path] = (float(when), what.strip())
    return found
