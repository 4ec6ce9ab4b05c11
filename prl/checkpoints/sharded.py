"""A checkpoint as a folder to which each process writes its shards, by torch.distributed.checkpoint.

In every strategy a process's shard is a range of the flattened tensor. So the files hold flat tensors, and any number
of processes under any strategy reads the ranges that it needs.
"""

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from prl.checkpoints.files import REST
from prl.checkpoints.sharded_metadata import Reader, read_index
from prl.distributed import collective_device, rank, sum_on_first, world_size
from prl.system.full_disk import is_disk_full, naming_when_full, save_tensors

FOLDER = "sharded_files"
"""Key of the folder of shards in a checkpoint that was read without them."""
_PART = "part"


@dataclass(frozen=True, eq=False)
class Part:
    """This process's part of a tensor.

    Attributes:
        local: [N], a view of the memory in use; empty where a process has no part of the tensor.
        start: offset of the part in the flattened tensor.
        shape: shape of the full tensor.
        is_copy: whether another process has the same range, and provides it when parts are gathered.
    """

    local: Tensor
    start: int
    shape: torch.Size
    is_copy: bool = False

    def take(self, whole: Tensor) -> None:
        """Copy this process's range from a full tensor."""
        self.local.copy_(whole.flatten()[self.start : self.start + self.local.numel()])

    def whole(self) -> Tensor:
        """Gather the full tensor on the CPU of the first process, an empty one on the others.

        Every process must call it.
        """
        # Offloaded parts pass over the GPU where the process group is NCCL.
        full = torch.zeros(self.shape.numel(), dtype=self.local.dtype, device=collective_device(self.local.device))
        if not self.is_copy:
            full[self.start : self.start + self.local.numel()] = self.local.to(full.device)
        sum_on_first(full.view(torch.uint8))  # sums of bytes, because a sum of floats loses -0.0
        return full.view(self.shape).cpu() if rank() == 0 else full.new_empty(0, device="cpu")


class _Flat(Tensor):
    """A part in the form of torch.distributed.checkpoint: a flat tensor of which one range is local."""

    part: Part

    @staticmethod
    def __new__(cls, part: Part) -> "_Flat":
        local = part.local
        flat = Tensor._make_wrapper_subclass(cls, (part.shape.numel(),), dtype=local.dtype, device=local.device)
        flat.part = part
        return flat

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise NotImplementedError(f"{func} of a tensor that is nowhere whole")

    def _chunk(self) -> ChunkStorageMetadata:
        return ChunkStorageMetadata(torch.Size([self.part.start]), self.part.local.shape)

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self.part.local)
        chunk = self._chunk()
        data = TensorWriteData(chunk, properties, torch.Size([self.part.shape.numel()]))
        return [WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)][: chunk.sizes[0]]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [self._chunk()][: self.part.local.numel()]

    def __get_tensor_shard__(self, _: MetadataIndex) -> Tensor:
        return self.part.local


def write(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Write a checkpoint with parts in it; all processes take part, on one file system.

    Args:
        checkpoint: nested dicts and lists; one part may be in several places, as tied weights are.
        folder: target; created.

    Raises:
        OSError: when the disk is full, naming the folder.
        RuntimeError: when a process cannot write its parts for another reason.
    """
    parts: dict[int, tuple[str, Part]] = {}

    def note(value: Any, where: str) -> Any:
        if not isinstance(value, Part):
            return value
        key, part = parts.setdefault(id(value), (where, value))
        return {_PART: key, "shape": list(part.shape)}

    rest = _mapped(checkpoint, note)
    try:
        dcp.save({key: _Flat(part) for key, part in parts.values()}, checkpoint_id=folder, no_dist=world_size() == 1)
    except CheckpointException as error:  # not an `Exception`, so it would go unreported
        reasons = sorted((each for each, _ in error.failures.values()), key=is_disk_full, reverse=True)
        if stops := [each for each in reasons if not isinstance(each, Exception)]:
            raise stops[0] from None  # a second Ctrl-C
        reason = reasons[0]
        with naming_when_full(folder):
            raise RuntimeError(f"{folder} cannot be written ({type(reason).__name__}: {str(reason)[:200]})") from reason
    if rank() == 0:
        save_tensors(rest, folder / REST)


def read_rest(folder: Path) -> dict[str, Any]:
    """Read a checkpoint without its shards; `read_parts` reads those from the folder under `FOLDER`."""
    return {**read_file(folder / REST), FOLDER: str(folder)}


def is_elsewhere(value: Any) -> bool:
    """Return whether a value from `read_rest` stands for a shard."""
    return isinstance(value, Mapping) and _PART in value


def read_parts(folder: Path, wanted: list[tuple[Mapping[str, Any], Part]]) -> None:
    """Fill parts in place from the checkpoint."""
    state = {value[_PART]: _Flat(part) for value, part in wanted}
    _load(state, folder, read_index(folder), alone=world_size() == 1)


def _load(state: dict[str, Any], folder: Path, index: Metadata, *, alone: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as asked
        try:
            dcp.load(state, storage_reader=Reader(folder, index), no_dist=alone)
        except CheckpointException as error:
            ((reason, _), *_) = error.failures.values()
            raise ValueError(f"{folder} cannot be read ({type(reason).__name__}: {str(reason)[:200]})") from error


def read_file(path: Path) -> dict[str, Any]:
    """Read a checkpoint from one file, as data.

    Raises:
        ValueError: when the file is damaged, or holds pickled code.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = re.search(r"(?:WeightsUnpickler error: |\n\n\n)(.{,200})", str(error))  # torch advises to run it
        reason = told.group(1).strip() if told else "no pickle of data"
        raise ValueError(f"{path} is damaged, or holds more than data ({reason}); nothing of it was run") from None
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}); use another one") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}; expected the dict of a checkpoint")
    return found


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with full tensors into the memory of this process: a file, or a folder of shards."""
    path = Path(path)
    if not path.is_dir():
        return read_file(path)
    index = read_index(path)
    described: dict[str, Any] = index.state_dict_metadata
    tensors = {key: torch.empty(each.size, dtype=each.properties.dtype) for key, each in described.items()}
    _load(tensors, path, index, alone=True)
    shaped: dict[str, Tensor] = {}  # tied weights stay one

    def place(value: Any, _: str) -> Any:
        if not is_elsewhere(value):
            return value
        key = value[_PART]
        if key not in shaped:
            shaped[key] = tensors[key].view(value["shape"])
        return shaped[key]

    rest = read_file(path / REST)
    try:
        return _mapped(rest, place)
    except (LookupError, TypeError, RuntimeError) as error:  # cycles of lists included
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"{path / REST} does not fit the tensors beside it ({reason}); copy the folder anew") from None


def _mapped(value: Any, change: Callable[[Any, str], Any], where: str = "") -> Any:
    changed = change(value, where)
    if changed is not value:
        return changed
    if isinstance(value, Mapping):
        return {key: _mapped(each, change, f"{where}.{key}" if where else str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(each, change, f"{where}.{i}") for i, each in enumerate(value))
    return value
