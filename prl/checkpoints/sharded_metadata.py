"""Reader of a sharded checkpoint's index (`.metadata`) as data.

torch.distributed.checkpoint writes the index as a pickle and reads it with plain `pickle.load`, which runs whatever a
file asks for. Here every name in the pickle becomes an inert record, and the index is built anew from records whose
fields are checked.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

INDEX = ".metadata"
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_RECORDS = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
"""Names that torch writes into an index. BytesStorageMetadata is left out: prl writes tensors alone, and torch would
read its bytes with plain `pickle.load`."""
_MOST_BYTES = 1 << 30


class Reader(dcp.FileSystemReader):
    """Reads tensors from a folder by an index that is already parsed."""

    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return the parsed index."""
        return self._index


def read_index(folder: Path) -> Metadata:
    """Read the index of a sharded checkpoint: its tensors, and where they are stored.

    Raises:
        ValueError: when the file is missing or damaged, or holds anything but an index of tensors in this folder.
    """
    path = folder / INDEX
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes; an index is far smaller")
        with path.open("rb") as file:
            found = _Unpickler(file).load()
        return _index(found, {each.name: each.stat().st_size for each in folder.iterdir() if each.is_file()})
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{path} is no index of a sharded checkpoint ({_words(error)}); copy it anew") from None


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}" if str(error) else type(error).__name__


class _Record:
    """An inert object of the pickle: the name of its class, and its arguments."""

    kind = ""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._kinds: dict[str, type[_Record]] = {}  # of this file alone, so that no file reaches another's

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if name not in _RECORDS.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an index")
        return self._kinds.setdefault(name, type(name, (_Record,), {"kind": name}))

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it names a persistent object")


def _index(found: Any, sizes: dict[str, int]) -> Metadata:
    """Build the index from records. Raises ValueError for invalid records, or sizes that do not fit the files."""
    state = _state(found, "Metadata")
    tensors = {_text(key): _tensor(_text(key), each) for key, each in _dict(state["state_dict_metadata"]).items()}
    num_bytes = sum(each.size.numel() * each.properties.dtype.itemsize for each in tensors.values())
    if num_bytes > sum(sizes.values()):
        raise ValueError(f"its tensors have {num_bytes} bytes, the files of the folder {sum(sizes.values())}")
    stored = dict(_stored(*entry, sizes) for entry in _dict(state["storage_data"]).items())
    for key, each in tensors.items():
        if missing := [chunk.offsets for chunk in each.chunks if MetadataIndex(key, chunk.offsets) not in stored]:
            raise ValueError(f"no file holds {key} from {missing[0][0]} on")
    return Metadata({**tensors}, storage_data=stored, storage_meta=StorageMeta())


def _tensor(key: str, found: Any) -> TensorStorageMetadata:
    state = _state(found, "TensorStorageMetadata")
    dtype = _state(state["properties"], "TensorProperties", tuple)[0]
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the type of {key} is {str(dtype)[:60]}")
    chunks = [_state(each, "ChunkStorageMetadata") for each in state["chunks"]]
    ranges = [ChunkStorageMetadata(_size(each["offsets"]), _size(each["sizes"])) for each in chunks]
    size, end = _size(state["size"]), 0
    for each in sorted(ranges, key=lambda each: each.offsets[0]):
        if each.offsets[0] > end:
            break
        end = max(end, each.offsets[0] + each.sizes[0])
    if end != size[0]:
        raise ValueError(f"the ranges of {key} do not make up its {size[0]} values")
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, ranges)


def _stored(index: Any, info: Any, sizes: dict[str, int]) -> tuple[MetadataIndex, _StorageInfo]:
    """Parse one storage entry. A file is named without a folder, so that an index reaches no other files."""
    at, place = _state(index, "MetadataIndex"), _state(info, "_StorageInfo")
    file, start, length = _text(place["relative_path"]), _int(place["offset"]), _int(place["length"])
    if start + length > sizes.get(file, -1) or place.get("transform_descriptors") is not None:
        raise ValueError(f"it points at bytes {start} to {start + length} of {file!r}, which are not in the folder")
    return MetadataIndex(_text(at["fqn"]), _size(at["offset"])), _StorageInfo(file, start, length)


def _state(found: Any, kind: str, shape: type = dict) -> Any:
    if not isinstance(found, _Record) or found.kind != kind or not isinstance(found.state, shape):
        raise ValueError(f"it has {type(found).__name__} where {kind} belongs")
    return found.state


def _dict(found: Any) -> dict[Any, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"it has {type(found).__name__} where dict belongs")
    return found


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise ValueError(f"it has {type(found).__name__} where str belongs")
    return found


def _int(found: Any) -> int:
    if type(found) is not int or not 0 <= found < 1 << 62:
        raise ValueError(f"it has {type(found).__name__} where a number of values or bytes belongs")
    return found


def _size(found: Any) -> torch.Size:
    """Parse the length of a flat tensor, or the offset of a range."""
    if not isinstance(found, tuple) or len(found) != 1:
        raise ValueError(f"it has {type(found).__name__} where the length of a flat tensor belongs")
    return torch.Size([_int(found[0])])
