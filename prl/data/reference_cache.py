"""Log-probabilities of responses under a frozen reference, on disk beside the encoded rows, one number for each token.

A folder holds `values.f32` (the tokens of all responses, float32), `lengths.npy` ([N, V] tokens of each response of N
rows, 0 where a row has fewer than V) and `report.json` with the hash of each file. Its name is a hash of all that
decides the numbers, so a folder is written once and never changed.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from prl.data.rows.sources import file_hash
from prl.data.store import cache_home

log = logging.getLogger(__name__)

VALUES, LENGTHS, REPORT = "values.f32", "lengths.npy", "report.json"


class ReferenceLogprobs:
    """Log-probabilities in a folder of the cache, read through a memory map.

    Args:
        folder: written by `ReferenceWriter`.
    """

    def __init__(self, folder: Path) -> None:
        self.lengths = np.load(folder / LENGTHS)
        self.values = np.memmap(folder / VALUES, np.float32, "r")
        ends = self.lengths.astype(np.int64).ravel().cumsum()
        self.starts = np.concatenate([[0], ends[:-1]]).reshape(self.lengths.shape)

    def of(self, rows: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        """Look up the log-probabilities of the responses of some rows, zero outside the mask: [N, T] float32.

        Args:
            rows: [B] numbers of the rows.
            pairs: [N] which of them each response belongs to; those of a row stand in the order of writing.
            mask: [N, T] bool, True on tokens of the responses.

        Raises:
            ValueError: when the lengths of responses differ from the cached ones.
        """
        of_pairs = pairs.cpu().numpy()
        places = np.array([np.count_nonzero(of_pairs[:n] == pair) for n, pair in enumerate(of_pairs)])
        known = places < self.lengths.shape[1]
        where = rows.cpu().numpy()[of_pairs[known]], places[known]
        starts, lengths = (each[where] for each in (self.starts, self.lengths))
        if lengths.tolist() != mask.sum(1).tolist():
            raise ValueError("the cached reference has responses of other lengths; remove the folder of prl's cache")
        found = [self.values[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        flat = torch.from_numpy(np.concatenate(found)).to(mask.device)
        return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


class ReferenceWriter:
    """Writes a folder of the cache atomically, in the order of the rows.

    Args:
        place: the folder. A damaged folder is replaced; a valid one, which another process wrote meanwhile, stays.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._lengths: list[list[int]] = []

    def __enter__(self) -> "ReferenceWriter":
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=self.place.parent, prefix=f"{self.place.name}.tmp"))
        self._file = (self._folder / VALUES).open("wb")
        return self

    def add(self, responses: Iterable[Sequence[np.ndarray]]) -> None:
        """Write the next rows: for each the log-probabilities of its V responses."""
        for views in responses:
            self._lengths.append([len(values) for values in views])
            for values in views:
                self._file.write(np.ascontiguousarray(values, np.float32).tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _publish(self) -> None:
        widest = max(map(len, self._lengths), default=0)
        padded = [[*row, *[0] * (widest - len(row))] for row in self._lengths]
        np.save(self._folder / LENGTHS, np.array(padded, np.int32))
        hashes = {name: file_hash(self._folder / name) for name in (VALUES, LENGTHS)}
        (self._folder / REPORT).write_text(json.dumps({"hashes": hashes}))
        with FileLock(f"{self.place}.lock"):
            if self.place.exists() and _fault(self.place) is None:
                return
            shutil.rmtree(self.place, ignore_errors=True)
            self._folder.rename(self.place)


def reference_folder(key: str) -> Path:
    """Return the folder of a key."""
    return cache_home() / "reference" / key


def load_reference(place: Path) -> ReferenceLogprobs | None:
    """Read a folder; None where it is missing, and with a warning where it is damaged."""
    if not place.exists():
        return None
    if (fault := _fault(place)) is not None:
        log.warning("the cache in %s is damaged (%s); the reference is computed again", place, fault)
        return None
    return ReferenceLogprobs(place)


def _fault(place: Path) -> str | None:
    """Describe a file that differs from its hash; None when the folder is valid."""
    try:
        hashes = json.loads((place / REPORT).read_bytes())["hashes"]
        return next((f"{n} has another hash" for n in (VALUES, LENGTHS) if file_hash(place / n) != hashes[n]), None)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
