"""Margins kept in a folder by the contents of what was read, so that no run pays for a reading twice.

A folder holds shards, `verdicts-RUN-RANK-N.jsonl`, each written by one process and never changed afterwards. A line is
one batch of readings of one judge: `{"judge": ID, "readings": [[prompt, first, second, margin], ...]}`, and before the
first batch of a judge stands `{"judge": ID, "about": {...}, "readings": []}`. A batch is on one line so that a killed
process leaves all of it or nothing: what is computed anew is then computed in the same batch, to the same bits.
"""

import hashlib
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prl.distributed import gathered, rank
from prl.judge.base import Comparison
from prl.system.full_disk import naming_when_full
from prl.system.json_files import parse_object

log = logging.getLogger(__name__)

_SHARD = re.compile(r"verdicts-(?P<run>[0-9a-f]{12})-(?P<rank>\d+)-(?P<number>\d+)\.jsonl")


class Line(NamedTuple):
    """A line of a shard: a batch of readings, or what is known of a judge."""

    judge: str
    readings: list[tuple[list[dict[str, str]], str, str, float]]
    about: dict[str, Any] | None


def judge_id(about: Mapping[str, Any]) -> str:
    """Hash the description of a judge: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def shards_in(folder: Path) -> list[Path]:
    """List the shards of a folder by name.

    Raises:
        ValueError: when the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the folder of verdicts {folder} is a file; expected a folder, new or with verdicts")
    return sorted(path for path in folder.glob("verdicts-*.jsonl") if _SHARD.fullmatch(path.name))


def read_shard(path: Path, size: int | None = None) -> Iterator[Line]:
    """Read the lines of a shard, or those in its first `size` bytes.

    A last line without an end, of a process that was killed while it wrote, is left out with a warning.

    Raises:
        ValueError: for a line that is damaged, naming file and line.
    """
    content = path.read_bytes()[:size]
    *lines, cut = content.split(b"\n")
    if cut and size is None:
        log.warning("%s: the last line was cut while it was written, and is left out (%d bytes)", path, len(cut))
    for number, line in enumerate(lines, 1):
        try:
            found = parse_object(line)
            readings = [(prompt, first, second, float(margin)) for prompt, first, second, margin in found["readings"]]
            yield Line(str(found["judge"]), readings, found.get("about"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is no batch of verdicts ({type(error).__name__}: {error}); it was changed "
                "after it was written: move this file away, and its readings are computed anew"
            ) from None


@dataclass
class Lookups:
    """Readings that were looked up in a store so far."""

    asked: int = 0
    """All of them."""
    found: int = 0
    """Those that were in the store."""


class VerdictStore:
    """Margins by content: read from the shards that were there at the start, written to shards of this process.

    What other runs write meanwhile is not read. `state_dict` names the shards that were read and the run, so that a
    resumed run reads these and its own ones: what it replays finds the very margins that it found or computed before,
    and what comes after is computed in the same batches as without the stop. Only the settings of processes must stay.

    Args:
        folder: folder of the shards; made at the first write.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.lookups = Lookups()
        self._run = uuid.uuid4().hex[:12]
        self._seen: dict[str, int] | None = None
        self._margins: dict[bytes, float] = {}
        self._file: Path | None = None
        self._described: set[str] = set()

    @property
    def hit_rate(self) -> float:
        """Share of the readings looked up that were in the store; 0 before the first."""
        return self.lookups.found / max(self.lookups.asked, 1)

    def __len__(self) -> int:
        return len(self._margins)

    def open(self) -> None:
        """Read the shards; safe to call twice. Every process must call it: the first one's name and shards are taken.

        Raises:
            ValueError: for a folder that is a file, or a damaged shard.
        """
        if self._seen is None:
            seen = {path.name: path.stat().st_size for path in shards_in(self.folder)}
            self._run, seen = gathered((self._run, seen))[0]  # another run may write while the others look
            self._read(seen)

    def state_dict(self) -> dict[str, Any]:
        """Return which shards this run reads: those that were there at its start, with their sizes, and its own."""
        return {"run": self._run, "seen": dict(self._seen or {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read what the saved run had read, and what it has written since."""
        self._run, self._margins, self._file = state["run"], {}, None
        self._read(state["seen"])

    def _read(self, seen: dict[str, int]) -> None:
        self._seen = seen
        own = [path for path in shards_in(self.folder) if self._is_own(path.name)]
        for name in seen:
            if not (self.folder / name).is_file():
                log.warning(
                    "%s, which this run has read, is gone: its readings are computed anew, and may differ by rounding",
                    self.folder / name,
                )
        others = [self.folder / name for name in seen if name not in {path.name for path in own}]
        for path, size in [*((path, None) for path in own), *((path, seen[path.name]) for path in others)]:
            if path.is_file():
                for line in read_shard(path, size):
                    for prompt, first, second, margin in line.readings:
                        self._margins.setdefault(_key(line.judge, (prompt, first, second)), margin)

    def _is_own(self, name: str) -> bool:
        found = _SHARD.fullmatch(name)
        return found is not None and found["run"] == self._run and int(found["rank"]) == rank()

    def look_up(self, judge: str, comparisons: list[Comparison]) -> list[float | None]:
        """Return the margin of each comparison; None where the store has none. Counted in `hit_rate`."""
        self.open()
        margins = [self._margins.get(_key(judge, each)) for each in comparisons]
        self.lookups.asked += len(margins)
        self.lookups.found += sum(margin is not None for margin in margins)
        return margins

    def add(self, judge: str, about: Mapping[str, Any], comparisons: list[Comparison], margins: list[float]) -> None:
        """Keep a batch of margins, on disk when this returns; failed judgements (NaN) are not kept.

        Raises:
            OSError: when the folder cannot be written, or the disk is full.
        """
        kept = [(list(p), u, v, z) for (p, u, v), z in zip(comparisons, margins, strict=True) if math.isfinite(z)]
        if not kept:
            return
        lines: list[dict[str, Any]] = [{"judge": judge, "readings": kept}]
        if judge not in self._described:
            lines.insert(0, {"judge": judge, "about": dict(about), "readings": []})
        if self._file is None:
            self._file = self._new_shard()
        text = "".join(json.dumps(line) + "\n" for line in lines)  # in ASCII: a text may hold half a character
        with naming_when_full(self._file), self._file.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self._described.add(judge)
        for prompt, first, second, margin in kept:
            self._margins[_key(judge, (prompt, first, second))] = margin

    def _new_shard(self) -> Path:
        """Make an empty shard of this process: earlier ones are never written to again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            path = self.folder / f"verdicts-{self._run}-{rank()}-{number}.jsonl"
            try:
                path.open("x").close()
                return path
            except FileExistsError:
                number += 1


def _key(judge: str, comparison: tuple[Any, str, str]) -> bytes:
    prompt, first, second = comparison
    text = json.dumps([judge, list(prompt), first, second], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[:16]
