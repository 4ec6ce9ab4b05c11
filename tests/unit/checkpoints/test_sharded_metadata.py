"""The index of a sharded checkpoint is read as data: what torch wrote, and nothing that a file asks to run."""

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from prl.checkpoints import sharded as sharded_files
from prl.checkpoints.sharded import Part
from prl.checkpoints.sharded_metadata import INDEX, read_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a checkpoint of two tensors; only the index is planted with anything."""
    wide, short = torch.arange(12.0), torch.arange(5).to(torch.bfloat16)
    checkpoint = {"wide": Part(wide, 0, torch.Size([3, 4])), "short": Part(short, 0, torch.Size([5]))}
    sharded_files.write(checkpoint, tmp_path / "parts")
    return tmp_path / "parts"


def torchs(folder: Path) -> Metadata:
    """Read the index by torch."""
    return FileSystemReader(folder).read_metadata()


def test_the_index_is_torchs_own(folder: Path) -> None:
    found, expected = read_index(folder), torchs(folder)
    assert found.state_dict_metadata == expected.state_dict_metadata
    assert found.storage_data == expected.storage_data


class Runs:
    """Unpickled by calling a function."""

    def __init__(self, call: Any, *given: Any) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> Any:
        return self.call, self.given


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("call", [os.system, subprocess.run, exec, eval, os.unlink, torch.load, torch.hub.load])
def test_nothing_of_an_index_is_run(call: Any, protocol: int, folder: Path, tmp_path: Path) -> None:
    metadata = torchs(folder)
    metadata.planner_data = Runs(call, f"touch {tmp_path}/ran")
    (folder / INDEX).write_bytes(pickle.dumps(metadata, protocol))
    with pytest.raises(
        ValueError, match=r"parts/.metadata is no index of a sharded checkpoint \(UnpicklingError: it n"
    ):
        sharded_files.read(folder)
    assert not (tmp_path / "ran").exists()


def test_no_bytes_are_read_as_a_pickle(folder: Path, tmp_path: Path) -> None:
    """torch reads what an index calls bytes with plain pickle.load, whatever was asked for in its place."""
    metadata = torchs(folder)
    metadata.state_dict_metadata["wide"] = BytesStorageMetadata()
    at, place = next((at, place) for at, place in metadata.storage_data.items() if at.fqn == "wide")
    metadata.storage_data[type(at)("wide")] = place
    torch.save(Runs(os.system, f"touch {tmp_path}/ran"), folder / place.relative_path)
    place.offset, place.length = 0, (folder / place.relative_path).stat().st_size
    (folder / INDEX).write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="BytesStorageMetadata, which is no part of an index"):
        sharded_files.read(folder)
    assert not (tmp_path / "ran").exists()


def changed(folder: Path, change: Any) -> str:
    metadata = torchs(folder)
    change(metadata, metadata.state_dict_metadata, next(iter(metadata.storage_data.values())))
    (folder / INDEX).write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="is no index of a sharded checkpoint") as told:
        sharded_files.read(folder)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_an_index_tells_of_this_folder_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(next(folder.glob("*.distcp")).read_bytes())
    assert "'../other', which are not in the folder" in changed(
        folder, lambda _, __, place: setattr(place, "relative_path", "../other")
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, __, place: setattr(place, "length", 10**9), "which are not in the folder"),
        (lambda _, tensors, __: setattr(tensors["wide"], "size", torch.Size([1 << 60])), "do not make up its"),
        (lambda _, tensors, __: setattr(tensors["wide"], "size", torch.Size([3, 4])), "length of a flat tensor"),
        (lambda _, tensors, __: tensors["wide"].chunks.clear(), "do not make up its 12 values"),
        (lambda whole, _, __: whole.storage_data.clear(), "no file holds wide from 0 on"),
        (lambda whole, _, __: setattr(whole, "state_dict_metadata", [1]), "list where dict belongs"),
        (lambda _, tensors, __: setattr(tensors["wide"].properties, "dtype", torch.Size([1])), "the type of wide"),
    ],
)
def test_an_index_that_cannot_be_is_told_in_a_line(change: Any, words: str, folder: Path) -> None:
    assert words in changed(folder, change)


def test_sizes_beyond_the_files_are_not_allocated(folder: Path) -> None:
    def grow(_: Any, tensors: Any, __: Any) -> None:
        wide = tensors["wide"]
        wide.size = wide.chunks[0].sizes = torch.Size([1 << 50])

    assert f"its tensors have {(1 << 52) + 10} bytes" in changed(folder, grow)


@pytest.mark.parametrize("damage", [b"", b"hello", b"\x80\x04}.", pickle.dumps([[[]]])])
def test_what_is_no_index_at_all(damage: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(damage)
    with pytest.raises(ValueError, match="is no index of a sharded checkpoint"):
        sharded_files.read_parts(folder, [])
    (folder / INDEX).unlink()
    with pytest.raises(ValueError, match="is no index of a sharded checkpoint .FileNotFoundError"):
        sharded_files.read(folder)


def test_a_checkpoint_file_is_data(tmp_path: Path) -> None:
    path = tmp_path / "file.ckpt"
    torch.save({"epoch": Runs(os.system, f"touch {tmp_path}/ran")}, path)
    with pytest.raises(ValueError, match=r"file.ckpt is damaged, or holds more than data \(.*GLOBAL posix.system"):
        sharded_files.read(path)
    assert not (tmp_path / "ran").exists()
    for damage in (b"", b"hello", path.read_bytes()[:100]):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="file.ckpt is damaged"):
            sharded_files.read(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="holds list; expected the dict of a checkpoint"):
        sharded_files.read(path)


def test_a_damaged_file_beside_a_good_index(folder: Path) -> None:
    rest = torch.load(folder / sharded_files.REST, weights_only=True)
    torch.save({**rest, "wide": {**rest["wide"], "shape": [7]}}, folder / sharded_files.REST)
    with pytest.raises(ValueError, match="rest.pt does not fit the tensors beside it"):
        sharded_files.read(folder)
    (parts,) = folder.glob("*.distcp")
    parts.write_bytes(bytes(parts.stat().st_size))
    with pytest.raises(ValueError, match="parts cannot be read"):
        sharded_files.read(folder)
