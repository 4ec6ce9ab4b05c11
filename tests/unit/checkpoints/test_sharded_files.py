"""Checkpoints in parts: here the parts of one process are everything."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.checkpoints import sharded as sharded_files
from prl.checkpoints.sharded import Part


def part(whole: torch.Tensor, start: int, stop: int) -> Part:
    return Part(whole.flatten()[start:stop].clone(), start, whole.shape)


@given(rows=st.integers(1, 5), columns=st.integers(1, 4), cuts=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_a_part_takes_its_range_and_gives_it_back(rows: int, columns: int, cuts: tuple[int, int]) -> None:
    whole = torch.arange(1.0, rows * columns + 1).view(rows, columns)
    start, stop = sorted(min(cut, whole.numel()) for cut in cuts)
    held = part(torch.zeros_like(whole), start, stop)
    held.take(whole)
    found = held.whole()
    assert found.shape == whole.shape
    assert torch.equal(found.flatten()[start:stop], whole.flatten()[start:stop])
    assert int(found.count_nonzero()) == stop - start


def test_minus_zero_and_nan_survive() -> None:
    whole = torch.tensor([-0.0, torch.nan, torch.inf, 1e-45])
    found = part(whole, 0, 4).whole()
    assert torch.equal(found.view(torch.int32), whole.view(torch.int32))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["__0_0.distcp", "rest.pt"])
def test_a_full_disk_is_told_as_that(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    weight = part(torch.zeros(1 << 16), 0, 1 << 16)
    with pytest.raises(OSError, match=r"No space left on device: '.*test_a_full_disk"):
        sharded_files.write({"weight": weight, "moment": torch.zeros(1 << 16)}, tmp_path)


def test_a_stop_while_parts_are_written_is_no_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise SystemExit(130)

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.FileSystemWriter.write_data", stopped)
    with pytest.raises(SystemExit, match="130"):
        sharded_files.write({"weight": part(torch.zeros(4), 0, 4)}, tmp_path)


def test_a_folder_is_read_whole_and_in_parts(tmp_path: Path) -> None:
    weight, moment = torch.randn(3, 4), torch.randn(5).to(torch.bfloat16)
    tied = part(weight, 0, 12)
    checkpoint = {
        "state_dict": {"embed": tied, "head": tied, "scale": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": part(moment, 0, 5)}}}],
        "epoch": 2,
    }
    sharded_files.write(checkpoint, tmp_path / "parts")
    found = sharded_files.read(tmp_path / "parts")
    assert found["epoch"] == 2
    assert torch.equal(found["state_dict"]["embed"], weight)
    assert found["state_dict"]["head"] is found["state_dict"]["embed"]
    assert torch.equal(found["state_dict"]["scale"], torch.ones(2))
    state = found["optimizer_states"][0]["state"][0]
    assert state["exp_avg"].dtype == torch.bfloat16
    assert torch.equal(state["exp_avg"], moment)
    assert float(state["step"]) == 3

    rest = sharded_files.read_rest(tmp_path / "parts")
    assert sharded_files.is_elsewhere(rest["state_dict"]["embed"])
    assert not sharded_files.is_elsewhere(rest["state_dict"]["scale"])
    held = part(torch.zeros(3, 4), 5, 9)  # as another number of processes has it
    sharded_files.read_parts(Path(rest[sharded_files.FOLDER]), [(rest["state_dict"]["head"], held)])
    assert torch.equal(held.local, weight.flatten()[5:9])


def test_a_file_is_read_too(tmp_path: Path) -> None:
    torch.save({"epoch": 1}, tmp_path / "file.ckpt")
    assert sharded_files.read(tmp_path / "file.ckpt") == {"epoch": 1}


def test_parts_are_asked_for_their_parts_only() -> None:
    with pytest.raises(NotImplementedError, match="nowhere whole"):
        sharded_files._Flat(part(torch.zeros(4), 0, 2)) + 1
