"""Which process failed first, where, and why: the others only notice that it is gone."""

import logging
import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from prl.distributed import rank, world_size
from prl.run_position import batches_done, is_dry_run

log = logging.getLogger(__name__)

FOLLOWS = "follows_from"
"""Attribute of an exception that another process caused: what to say of it."""


class FirstFailure(Callback):
    """Leaves `RUN_DIR/failures/rankN.txt` when one of several processes fails; the others' errors name the first.

    A process that waits for a lost one gets an error about a closed connection or a time-out; what matters is the error
    of the process that went first.
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Forget failures of an earlier start."""
        if world_size() > 1 and trainer.is_global_zero and not is_dry_run(trainer):
            for path in _folder(trainer).glob("rank*.txt"):
                path.unlink()
        trainer.strategy.barrier("failures forgotten")

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Tell the first failure from those that follow from it."""
        if world_size() == 1 or is_dry_run(trainer) or not isinstance(exception, Exception):
            return  # a stop that was asked for is no failure
        folder = _folder(trainer)
        earlier = {path: path.read_text(encoding="utf-8") for path in folder.glob("rank*.txt")}
        phase = getattr(pl_module, "current_phase", None)
        place = f"rank {rank()} of {world_size()}, batch {batches_done(trainer) + 1}" + (f", {phase}" if phase else "")
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"rank{rank()}.partial"
        text = f"{time.time():.3f} {place}: {type(exception).__name__}: {exception}\n"
        partial.write_text(text, encoding="utf-8")
        partial.replace(partial.with_suffix(".txt"))
        if earlier:
            first = min(earlier.values(), key=lambda each: float(each.split(" ", 1)[0])).split(" ", 1)[1].strip()
            setattr(exception, FOLLOWS, f"{place} ended because another process failed first. {first}")
        else:
            log.error("%s failed: %s: %s", place, type(exception).__name__, exception)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "failures"
