"""Event files of several sessions, read by TensorBoard itself."""

import os
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_modules.callbacks.resumed_events import put_earlier_files_first


def write(folder: Path, steps: range, stamp: int) -> Path:
    with SummaryWriter(str(folder)) as writer:
        for step in steps:
            writer.add_scalar("loss", float(step), step)
        path = Path(writer._get_file_writer().event_writer._file_name)  # type: ignore[union-attr]
    return path.rename(path.with_name(f"events.out.tfevents.{stamp:010d}.host.{os.getpid()}.0"))


def test_sessions_stay_in_their_order_when_the_clock_went_back(tmp_path: Path) -> None:
    now = int(time.time())
    write(tmp_path, range(0, 3), now - 5000)
    write(tmp_path, range(3, 6), now + 4000)
    write(tmp_path, range(6, 9), now + 5000)
    own = write(tmp_path, range(9, 12), now)
    put_earlier_files_first(own)
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in found.Scalars("loss")] == list(range(12))
    assert own.exists()
