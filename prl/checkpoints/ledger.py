"""The run ledger: inputs and results of each training batch, in numbers that a repetition must reproduce.

`RUN_DIR/ledger.jsonl` is append-only. A line `{"session": …}` marks each start of the run. Lines of earlier sessions
about batches after its `resumed` no longer count, because these batches were trained again.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from prl.system.full_disk import naming_when_full

LEDGER = "ledger.jsonl"

DIAGNOSES = {
    "data": "the batch holds other tokens: look at the data files, their cache, data.seed and the number of processes",
    "rng": "the random states were not continued",
    "learning_rate": "schedule or optimizer settings are not those of the run",
    "state": "a registered part of the run was not continued",
    "responses": "other responses to the same prompts from the same draws: weights, sampling settings or kernels",
    "rewards": "other rewards for the same responses: the judge's weights, template or calibration",
    "numbers": "another result from the same batch: dropout, weights, settings of the loss or kernels",
    "weights": "another update from the same loss: optimizer state or kernels",
}
"""Quantities of a line, each after those that it depends on -> diagnosis of a difference."""

_SMALLEST = 1e-3
"""Scale below which differences of measured numbers are absolute: a loss may be zero up to rounding."""


# ---- contents of a line


def content_hash(value: Any) -> str:
    """Hash tensors, texts and numbers in lists, dicts and dataclasses."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in _pieces(value):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"{plain.dtype}{tuple(plain.shape)}".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    elif is_dataclass(value):
        yield from _pieces([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, dict):
        yield from _pieces([part for key in sorted(value, key=str) for part in (str(key), value[key])])
    elif isinstance(value, list | tuple) and not all(isinstance(each, str | int | float) for each in value):
        yield str(len(value)).encode()
        for each in value:
            yield from _pieces(each)
    else:
        yield repr(value).encode()


def fingerprint(values: Tensor) -> dict[str, Any]:
    """Summarise a vector by its hash, its norm and two signed sums, which show the size of a difference."""
    flat = values.detach().double().cpu().reshape(-1)
    steps = torch.arange(1, len(flat) + 1, dtype=torch.int64)
    signs = [(steps * factor % 65536).double() / 32768 - 1 for factor in (40503, 25931)]
    sums = [float(flat @ sign) for sign in signs]
    return {"hash": content_hash(values), "norm": float(flat.norm()), "sums": sums}


def weights_fingerprint(parameters: list[Tensor], num_tensors: int = 32, num_values: int = 256) -> dict[str, Any]:
    """Fingerprint evenly spaced values of evenly spaced tensors: reading all weights would take time."""
    chosen = parameters[:: max(1, len(parameters) // num_tensors)]
    return fingerprint(torch.cat([_spaced(each.detach(), num_values) for each in chosen]))


def _spaced(tensor: Tensor, count: int) -> Tensor:
    local = getattr(tensor, "to_local", lambda: tensor)().reshape(-1)  # the local shard of a sharded tensor
    return local[:: max(1, local.numel() // count)][:count].float()


def state_numbers(state: Any) -> Any:
    """Hash everything in a state but its numbers."""
    if isinstance(state, dict):
        return {str(key): state_numbers(value) for key, value in state.items()}
    return state if isinstance(state, int | float) or state is None else content_hash(state)


# ---- the file


class LedgerWriter:
    """Appends lines; each is passed to the operating system before the next batch begins.

    Args:
        path: the ledger.
        resumed: batches that the run has completed; 0 begins a new file.
        facts: further fields of the session line.
    """

    def __init__(self, path: Path, resumed: int, facts: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut = resumed > 0 and path.is_file() and not path.read_bytes().endswith(b"\n")
        self._file: TextIO = open(path, "a" if resumed else "w", encoding="utf-8")  # noqa: SIM115 - open for the run
        if cut:  # half a line of a killed process
            self._file.write("\n")
        self.append({"session": {"resumed": resumed, **facts}})

    def append(self, line: dict[str, Any]) -> None:
        """Append one line."""
        try:
            with naming_when_full(self._file.name):
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._file.close()  # a later close would write the rest again
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_ledger(path: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """Read the valid lines by batch number, and the facts of the last session.

    Raises:
        ValueError: when the file is missing or a line is damaged; the last line of a session may be incomplete.
    """
    if not path.is_file():
        raise ValueError(f"there is no ledger {path}; it is written by `prl fit`")
    lines: dict[int, dict[str, Any]] = {}
    facts: dict[str, Any] = {}
    cut: int | None = None
    texts = path.read_bytes().removesuffix(b"\n").split(b"\n")
    for number, text in enumerate(texts, start=1):
        line = _parsed(text)
        if isinstance(line, dict) and "session" in line:
            facts, cut = line["session"], None
            if not isinstance(facts, dict) or not isinstance(facts.get("resumed"), int):
                raise _damaged(path, number)
            lines = {batch: kept for batch, kept in lines.items() if batch <= facts["resumed"]}
        elif cut is not None:
            raise _damaged(path, cut)
        elif isinstance(line, dict) and isinstance(line.get("batch"), int):
            lines[line["batch"]] = line
        elif line is not None:
            raise _damaged(path, number)
        else:
            cut = number
    return lines, facts


def _parsed(text: bytes) -> Any:
    """Parse a line of JSON; None for other text, which a killed process leaves at the end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _damaged(path: Path, number: int) -> ValueError:
    return ValueError(
        f"{path}, line {number} is damaged, and prl writes whole lines, one of a batch or a session each; the ledger "
        "was changed"
    )


# ---- comparison


@dataclass(frozen=True)
class Difference:
    """Largest difference of two ledgers, or the first beyond the tolerance."""

    batch: int
    quantity: str
    size: float
    """Relative difference; infinite for quantities that must be equal."""
    before: Any
    now: Any

    @property
    def diagnosis(self) -> str:
        """Likely cause of a difference in this quantity."""
        return DIAGNOSES[self.quantity.partition(".")[0]]


def compare(before: list[dict[str, Any]], now: list[dict[str, Any]], tolerance: float) -> Difference | None:
    """Return the first difference beyond the tolerance, else the largest; None when every bit is equal.

    Args:
        before: lines of the run.
        now: lines of the replay, of the same batches.
        tolerance: relative difference of measured numbers that counts as rounding of kernels.
    """
    largest = None
    for one, other in zip(before, now, strict=True):
        for name in DIAGNOSES:
            for quantity, a, b in _pairs(name, one.get(name), other.get(name)):
                size = _difference(quantity, a, b)
                if size == 0:
                    continue
                found = Difference(one["batch"], quantity, size, a, b)
                if size > tolerance:
                    return found
                if largest is None or size > largest.size:
                    largest = found
    return largest


def _pairs(name: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    both = isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys()
    if both and "hash" not in a:
        for key in a:
            yield from _pairs(f"{name}.{key}", a[key], b[key])
    else:
        yield name, a, b


def _difference(quantity: str, a: Any, b: Any) -> float:
    if a == b or a != a and b != b:  # NaN in both is no difference
        return 0.0
    if _is_fingerprint(a) and _is_fingerprint(b):
        moved = max(abs(x - y) for x, y in zip(a["sums"], b["sums"], strict=True))
        return _finite(moved / max(a["norm"], _SMALLEST)) or 1e-12  # other bits, even where the sums agree
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(_difference(quantity, x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        smallest = _SMALLEST if quantity.startswith("numbers") else 0.0
        return _finite(abs(a - b) / max(abs(a), abs(b), smallest))
    return math.inf


def _is_fingerprint(value: Any) -> bool:
    """Return whether a value has the form that `fingerprint` gives."""
    if not isinstance(value, dict) or not isinstance(value.get("sums"), list) or len(value["sums"]) != 2:
        return False
    return all(isinstance(each, int | float) for each in (value.get("norm"), *value["sums"]))


def _finite(size: float) -> float:
    return size if math.isfinite(size) else math.inf
