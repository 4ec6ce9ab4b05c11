"""Cache of encoded records on disk: written one by one, read through a memory map, found by a hash of their inputs.

A folder of the cache holds `rows.arrow` (token ids and labels of every record that was not left out), `records.npz` (a
few bytes for each record, left out or not) and `report.json`. Its name is a hash of the data, of how they are read and
of the encoder, so a folder is written once and never changed. `report.json` has the hash of each file, which readers
check, because a damaged bit would be trained on.
"""

import glob
import hashlib
import inspect
import json
import logging
import os
import shutil
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
import transformers
from filelock import FileLock
from tqdm import tqdm

from prl.data.audit import comparison_key
from prl.data.rows.reading import RecordStream
from prl.data.rows.records import PreferencePair, Record, prompt_key
from prl.data.rows.row_errors import RowError
from prl.data.rows.sources import DataError, file_hash
from prl.data.tokens import EncodingCounts, TooLongError, Truncation, settings_hash

log = logging.getLogger(__name__)

ROWS, RECORDS, REPORT = "rows.arrow", "records.npz", "report.json"
_BATCH = 256
"""Rows held in memory until they are written; a few of the longest ones are megabytes."""


class RecordEncoder(Protocol):
    """Turns records into token ids; `RowError` refuses a record, as it refuses a bad row."""

    counts: EncodingCounts
    """Texts seen so far, and what they lost."""

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""

    def encode(self, record: Any) -> dict[str, Any] | None:
        """Encode one record as ids, with its `length` in tokens; None when it is left out.

        A value has one type in all rows, and a list of integers is never empty.
        """


class Adds(Protocol):
    """Makes further records beside those of a source."""

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide these records."""


@dataclass(frozen=True)
class EncodedRecords:
    """All records of a source in file order. Arrays are over the N records, left out or not."""

    rows: Any
    """`datasets.Dataset` of the encoded rows, in memory maps; those left out have none."""
    prompts: np.ndarray
    """SHA-256 of each prompt: [N] S32."""
    comparisons: np.ndarray
    """Key of what a preference pair compares: [N] S16; empty for other kinds."""
    winners: np.ndarray
    """Winner of the comparison, see `comparison_key`: [N] uint8."""
    truncations: np.ndarray
    """Truncation of each record, or why it was left out, as flags of `Truncation`: [N] uint8."""
    lengths: np.ndarray
    """Tokens of each row: [N] int32; 0 where it was left out."""
    report: dict[str, Any]
    """Report of the reading (`DataReport`)."""
    folder: Any = None
    """Temporary folder, kept while the rows are in use."""

    @property
    def encoded(self) -> np.ndarray:
        """[N] bool, True where a record has a row."""
        return (self.truncations & Truncation.LEFT_OUT) == 0

    def rows_of(self, records: np.ndarray) -> Any:
        """Select the rows of the records of these numbers, in their order."""
        row_of = np.cumsum(self.encoded) - 1
        return self.rows.select(row_of[records[self.encoded[records]]])


def cache_home() -> Path:
    """Return the folder of prl's caches: $PRL_HOME, else prl in the user's cache folder."""
    if home := os.environ.get("PRL_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "prl"


def encode_records(
    stream: RecordStream, records: Iterable[Record], encoder: RecordEncoder, cache: bool, adds: Adds | None = None
) -> EncodedRecords:
    """Encode the records of a source, or read them from the cache; one record at a time.

    Several processes may call this at once: one encodes, the others wait for it.

    Args:
        stream: reads the source.
        records: records of the source, with further checks; iterated again where the cache turns out to be full.
        encoder: encodes a record as token ids.
        cache: keep the result for later runs; otherwise it is in a temporary folder while it is used.
        adds: what makes records of `records` that the source does not hold; None where nothing does.

    Raises:
        DataError: for bad rows, no row that fits, or a full disk.
        TooLongError: for a record that does not fit, where the encoder refuses these.
    """
    key = _key(stream, encoder, adds) if cache else None
    if key is not None and (kept := _kept(cache_home() / "encoded" / key, stream, records, encoder)) is not None:
        return kept
    try:
        folder = tempfile.TemporaryDirectory(prefix="prl-rows-")
        _write(Path(folder.name), stream, records, encoder)
    except OSError as error:
        raise DataError(
            f"the encoded rows of {stream.source.path} cannot be written into the temporary folder "
            f"{tempfile.gettempdir()}: {error}; set TMPDIR to a folder with room for them"
        ) from error
    return _read(Path(folder.name), stream.source.path, folder)


def _kept(
    place: Path, stream: RecordStream, records: Iterable[Record], encoder: RecordEncoder
) -> EncodedRecords | None:
    """Read or write the encoded records in a folder of the cache; None, with a warning, if that fails."""
    found = _found(place)
    # Several processes hash at once, and only the lock makes one wait for another.
    while (fault := _find_corruption(place)) is not None:
        if place.exists():
            log.warning("the cache in %s is damaged (%s); its rows are encoded again", place, fault)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place}.lock"):
                if _found(place) == found:  # no other process has written it meanwhile
                    _make(place, stream, records, encoder)
                    return _read(place, stream.source.path)
        except (OSError, NotImplementedError) as error:  # the second: a file system without locks
            log.warning(
                "the cache in %s cannot be written (%s), so rows are encoded anew in each run; set PRL_HOME to another "
                "folder, or data.cache to false",
                cache_home(),
                error,
            )
            return None
        found = _found(place)
    return _read(place, stream.source.path)


def _make(place: Path, stream: RecordStream, records: Iterable[Record], encoder: RecordEncoder) -> None:
    """Replace a folder of the cache by one written anew, atomically."""
    for rest in place.parent.glob(f"{glob.escape(place.name)}.tmp*"):  # left by a killed process
        shutil.rmtree(rest, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name}.tmp"))
    try:
        _write(unfinished, stream, records, encoder)
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _key(stream: RecordStream, encoder: RecordEncoder, adds: Adds | None) -> str | None:
    """Return the cache key of a source, its encoder and what adds records; None where one cannot be hashed."""
    more = [] if adds is None else [adds]
    data, code = stream.content_hash(), _code_hash(type(encoder), stream.kind, *map(type, more))
    if data is None or code is None:
        return None
    source = stream.source
    suffix = "".join(Path(source.path).suffixes[-2:])  # the same bytes may be read in several ways
    reading = [suffix, source.split, source.name, source.columns, source.limit, stream.kind.__name__, stream.on_invalid]
    return settings_hash(data, reading, encoder.fingerprint, code, *(each.fingerprint for each in more))


def _code_hash(*kinds: type) -> str | None:
    """Hash the code that reads and encodes, so that a change of it needs no version number.

    It covers the folders of these classes, of all that they inherit from, and of this file.
    """
    classes = [each for kind in kinds for each in kind.__mro__]
    ours = [each for each in classes if each.__module__.partition(".")[0] not in sys.stdlib_module_names]
    try:
        folders = {Path(__file__).parent, *(Path(inspect.getfile(each)).parent for each in ours)}
    except (TypeError, OSError):  # defined in an interpreter
        return None
    digest = hashlib.sha256(f"{transformers.__version__} {tokenizers.__version__}".encode())
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _write(folder: Path, stream: RecordStream, records: Iterable[Record], encoder: RecordEncoder) -> None:
    from datasets.arrow_writer import ArrowWriter  # a second to import

    index = _Index()
    with ArrowWriter(path=str(folder / ROWS), writer_batch_size=_BATCH) as writer:
        rows = _encoded(stream, records, encoder, index)
        # Without a terminal a line would stay for each refresh.
        often = 0.5 if sys.stderr.isatty() else 30
        for row in tqdm(rows, f"encoding {stream.source.path}", unit=" rows", leave=False, delay=2, mininterval=often):
            writer.write(row)
        if not any(index.lengths):
            raise DataError(
                f"no row of {stream.source.path} is left of {len(index.lengths)}: all are too long, or the same twice "
                "once they are cut; see max_length and on_too_long"
            )
        writer.finalize()
    index.save(folder / RECORDS)
    hashes = {name: file_hash(folder / name) for name in (ROWS, RECORDS)}
    report = json.dumps(stream.report.as_dict())
    (folder / REPORT).write_text(json.dumps({"report": report, "hashes": hashes | {REPORT: _sha256(report)}}))


def _encoded(
    stream: RecordStream, records: Iterable[Record], encoder: RecordEncoder, index: "_Index"
) -> Iterator[dict[str, Any]]:
    for record in records:
        encoder.counts = EncodingCounts()
        try:
            row = encoder.encode(record)
        except TooLongError as error:
            made = ", an attack made for it (data.init_args.attacks)" if getattr(record, "attack", "") else ""
            raise TooLongError(f"{stream.source.path}, row {stream.row}{made}: {error}") from None
        except RowError as error:
            stream.refuse(error)
            continue
        index.add(record, encoder.counts, 0 if row is None else row["length"])
        if row is not None:
            yield {name: _narrow(value) for name, value in row.items()}


def _narrow(value: Any) -> Any:
    """Store ids as an int32 array, here and in the file, in a list of lists too; other values are unchanged."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [_narrow(each) for each in value]
    if not isinstance(value, list) or not value or not isinstance(value[0], int):
        return value
    array = np.array(value)
    return array.astype(np.int32) if array.dtype.kind == "i" else value


class _Index:
    """The bytes of each record that splits, duplicates, the sampler and the report need."""

    def __init__(self) -> None:
        self.prompts, self.comparisons = bytearray(), bytearray()
        self.winners, self.truncations, self.lengths = array("B"), array("B"), array("i")

    def add(self, record: Record, counts: EncodingCounts, length: int) -> None:
        self.prompts += bytes.fromhex(prompt_key(record.prompt))
        if isinstance(record, PreferencePair):
            key, winner = comparison_key(record)
            self.comparisons += key
            self.winners.append(winner)
        self.truncations.append(sum(counts.by_truncation))  # each truncation is a bit of its own
        self.lengths.append(length)

    def save(self, path: Path) -> None:
        np.savez(
            path,
            prompts=np.frombuffer(self.prompts, "S32"),
            comparisons=np.frombuffer(self.comparisons, "S16"),
            winners=np.array(self.winners, np.uint8),
            truncations=np.array(self.truncations, np.uint8),
            lengths=np.array(self.lengths, np.int32),
        )


def _found(folder: Path) -> bytes | None:
    """Read the bytes that identify the files of a cache folder; None where there is none."""
    try:
        return (folder / REPORT).read_bytes()
    except OSError:
        return None


def _find_corruption(folder: Path) -> str | None:
    """Describe a file of a cache folder that differs from what was written; None where there is no difference."""
    try:
        found = json.loads((folder / REPORT).read_bytes())
        hashes = {name: file_hash(folder / name) for name in (ROWS, RECORDS)} | {REPORT: _sha256(found["report"])}
        return next((f"{name} has another hash" for name in hashes if hashes[name] != found["hashes"][name]), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(folder: Path, source: str, keep: Any = None) -> EncodedRecords:
    from datasets import Dataset

    with np.load(folder / RECORDS) as arrays:
        index = {name: arrays[name] for name in arrays.files}
    report = json.loads(json.loads((folder / REPORT).read_bytes())["report"])
    return EncodedRecords(
        Dataset.from_file(str(folder / ROWS)), **index, report=report | {"source": source}, folder=keep
    )
