"""When a checkpoint is written, and into what."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.callbacks import run_checkpoint
from lightning_modules.callbacks.run_checkpoint import PlainCheckpointIO, RunCheckpoint, _Boundary, _leave_last_alone


@pytest.fixture
def callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunCheckpoint:
    """One that writes nothing; its trainer counts."""
    files = Mock()
    files.partial_path.return_value = tmp_path / "batch.partial"
    monkeypatch.setattr(run_checkpoint, "checkpoint_files", files)
    monkeypatch.setattr(run_checkpoint, "batches_done", lambda trainer: trainer.done)
    return RunCheckpoint(str(tmp_path), every_n_batches=2)


def training(done: int) -> Any:
    trainer = Mock(done=done, fast_dev_run=False, is_global_zero=True)
    trainer.fit_loop._should_accumulate.return_value = False
    return trainer


def test_a_link_is_replaced_and_what_it_stands_for_stays(tmp_path: Path) -> None:
    other = tmp_path / "batch-000002.ckpt"
    other.write_bytes(b"a checkpoint")
    (tmp_path / "last.ckpt").symlink_to(other)
    PlainCheckpointIO().save_checkpoint({"weight": torch.ones(1)}, tmp_path / "last.ckpt")
    assert other.read_bytes() == b"a checkpoint"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["weight"] == 1


def test_a_batch_is_saved_once_and_the_last_one_in_any_case(callback: RunCheckpoint) -> None:
    trainer = training(done=3)
    for _ in range(2):
        callback.on_train_end(trainer, Mock())
    assert trainer.save_checkpoint.call_count == 1


@pytest.mark.parametrize("due", [True, False])
def test_a_checkpoint_waits_for_the_validation_of_its_batch(due: bool, callback: RunCheckpoint) -> None:
    trainer = training(done=2)
    trainer.fit_loop.epoch_loop._should_check_val_fx.return_value = due
    callback.poll = Mock()  # type: ignore[method-assign]  # nobody asked for an end
    callback.on_train_batch_end(trainer, Mock(), None, None, 0)
    assert trainer.save_checkpoint.call_count == int(not due)
    callback.on_validation_end(trainer, Mock())
    assert trainer.save_checkpoint.call_count == 1


def test_counters_of_a_save_are_those_of_its_boundary(callback: RunCheckpoint) -> None:
    checkpoint = {"loops": "of the batch that has begun", "epoch": 8}
    callback._boundary = _Boundary(2, 7, {"of": "the last whole one"}, {}, False)
    callback.on_save_checkpoint(Mock(), Mock(), checkpoint)  # somebody else's save
    assert checkpoint["epoch"] == 8
    callback._own_save = True
    callback.on_save_checkpoint(Mock(), Mock(), checkpoint)
    assert checkpoint == {"loops": {"of": "the last whole one"}, "epoch": 7}


def test_lightnings_last_checkpoint_has_another_name_in_the_same_folder_alone(tmp_path: Path) -> None:
    own, other = ModelCheckpoint(dirpath=tmp_path / "own"), ModelCheckpoint(dirpath=tmp_path / "other")
    for each in (own, other):
        _leave_last_alone(each, tmp_path / "own")
    assert (own.CHECKPOINT_NAME_LAST, other.CHECKPOINT_NAME_LAST) == ("model-checkpoint-last", "last")


def test_a_second_epoch_without_a_batch_is_an_error(callback: RunCheckpoint) -> None:
    callback.on_train_epoch_end(training(done=4), Mock())  # one such epoch comes with a resume at its end
    callback.on_train_epoch_end(training(done=8), Mock())
    with pytest.raises(RuntimeError, match="ended after 8 batches, and the next one ended without a batch"):
        callback.on_train_epoch_end(training(done=8), Mock())
