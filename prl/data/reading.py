"""Reads a data file or a hub data set into checked records, and says exactly which rows were bad and why."""

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from prl.data.records import Record
from prl.data.row import Row
from prl.data.row_errors import RowError

MAX_ERRORS_SHOWN = 20
_BUILDERS = {".json": "json", ".parquet": "parquet", ".csv": "csv"}
_SUFFIXES = (".jsonl", ".jsonl.gz", *_BUILDERS)

R = TypeVar("R", bound=Record)


class DataError(ValueError):
    """The data cannot be used as it is; the message says where, why and what to do."""


@dataclass(frozen=True)
class DataSource:
    """Where rows come from. Raises ValueError if a field makes no sense."""

    path: str
    """Local .jsonl, .jsonl.gz, .json, .parquet or .csv file, or the id of a data set on the Hugging Face hub."""
    split: str | None = None
    """Split of a hub data set, in the notation of `datasets` (`train`, `test[:10%]`); needed if it has several."""
    name: str | None = None
    """Subset (configuration) of a hub data set."""
    columns: dict[str, str | None] | None = None
    """Where columns have other names: prl's name for a field -> the column in the file, `{prompt: question}`; null
    leaves a column of prl's name unread."""
    limit: int | None = None
    """Read only so many rows, from the first."""
    streaming: bool = False
    """Read a hub data set over the network while it is checked, and a .json, .parquet or .csv file from its place,
    without the copy on disk that `datasets` makes first. Rows, checks and report are the same."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; expected at least 1 row, or null for all rows")


@dataclass(frozen=True)
class DataReport:
    """What happened to the rows of one source. Row numbers count from 1; in .jsonl files they are line numbers."""

    source: str
    """Path or hub id as given."""
    sha256: str | None
    """Hash of the local file; None for a hub data set."""
    kind: str
    """Name of the record class."""
    num_read: int
    """Rows; kept and skipped ones add up to it."""
    num_kept: int
    """Rows that are valid."""
    num_records: int
    """Records that they gave; a ranked list gives several."""
    num_ties: int
    """Pairs of ranked lists left out because their ranks are equal."""
    num_stripped: int
    """Responses that lost leading or trailing white space."""
    shapes: dict[str, int]
    """Columns that records were made of -> the number of kept rows."""
    labels: dict[str, int]
    """Column that said which response is better -> the number of kept rows; empty for kinds without such a column."""
    skipped: dict[str, list[int]]
    """Reason -> the numbers of the rows left out for it."""
    unknown_columns: list[str]
    """Columns that were not read, kept in each record's `extra`."""
    dropped_message_keys: list[str]
    """Keys beside role and content that were seen in messages and not kept."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)

    def write(self, path: str | Path) -> None:
        """Write the report as JSON, making the folder if need be."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class LoadedRecords(Generic[R]):
    """The valid records of a source in file order, and the account of how they were read."""

    records: list[R]
    report: DataReport


class RecordStream(Generic[R]):
    """The valid records of a source in file order, one at a time, and then the account of how they were read.

    Iterating raises DataError if the source cannot be read or, at its end, if it has a bad row under "error" or no good
    row at all. From the first bad row under "error" on, rows are only checked.

    Args:
        source: file or hub data set.
        kind: record class that the rows must form.
        on_invalid: "error" looks at every row and then raises once; "skip" leaves bad rows out and reports them.

    Attributes:
        row: number of the row that the last record came from.

    Raises:
        ValueError: `on_invalid` or a name in `source.columns` is not one of the accepted ones.
    """

    def __init__(self, source: DataSource, kind: type[R], on_invalid: Literal["error", "skip"] = "error") -> None:
        if on_invalid not in ("error", "skip"):
            raise ValueError(f"on_invalid is {on_invalid!r}; expected 'error' or 'skip'")
        if unknown := sorted(set(source.columns or {}) - set(kind.columns)):
            raise ValueError(f"columns maps {unknown}; a {kind.__name__} has the fields {list(kind.columns)}")
        self.source, self.kind, self.on_invalid = source, kind, on_invalid
        self.row = 0
        self._tally = _Tally()

    def __iter__(self) -> Iterator[R]:
        tally = self._tally = _Tally()
        complaints: list[str] = []
        for number, raw in islice(self._rows(), self.source.limit):
            self.row = number
            try:
                if isinstance(raw, RowError):
                    raise raw
                row = self.kind.row(_renamed(raw, self.source.columns or {}))
                records = self.kind.from_row(row)
            except RowError as error:
                tally.skipped.setdefault(error.reason, []).append(number)
                if len(complaints) < MAX_ERRORS_SHOWN:
                    complaints.append(f"row {number}{':' if error.field is None else ','} {error}")
                continue
            tally.add(row, len(records))
            if not tally.skipped or self.on_invalid == "skip":
                yield from records
        if not tally.num_records or (tally.skipped and self.on_invalid == "error"):
            raise DataError(_explain(self.source, complaints, tally))

    def content_hash(self) -> str | None:
        """Name of the data by its content; None where there is none, as for a folder of files that is streamed.

        Of a hub data set it is the fingerprint that `datasets` gives it, or its commit if it is streamed.
        """
        path = Path(self.source.path)
        if path.is_file():
            return self._sha256
        if not self.source.streaming:
            return self._dataset._fingerprint
        _check_there(self.source)
        return None if path.is_dir() else _hub_commit(self.source.path)

    @property
    def report(self) -> DataReport:
        """The account, once all rows were read."""
        tally = self._tally
        return DataReport(
            source=self.source.path,
            sha256=self._sha256,
            kind=self.kind.__name__,
            num_read=tally.num_rows + tally.num_invalid,
            num_kept=tally.num_rows,
            num_records=tally.num_records,
            num_ties=tally.num_ties,
            num_stripped=tally.num_stripped,
            shapes=dict(tally.shapes),
            labels=dict(tally.labels),
            skipped=tally.skipped,
            unknown_columns=sorted(tally.unknown_columns),
            dropped_message_keys=sorted(tally.dropped_message_keys),
        )

    @cached_property
    def _sha256(self) -> str | None:
        path = Path(self.source.path)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def _dataset(self) -> Any:
        return _load_dataset(self.source)

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
        """Every row with its number, or the reason why it cannot be read."""
        source, path = self.source, Path(self.source.path)
        if path.is_file():
            if source.split or source.name:
                raise DataError(f"{source.path} is a local file and has no split or name; remove these two settings")
            if not path.name.endswith(_SUFFIXES):
                raise DataError(f"{source.path} is a {path.suffix or 'bare'} file; expected {', '.join(_SUFFIXES)}")
            if path.suffix not in _BUILDERS:
                return _jsonl_rows(path)
        return _dataset_rows(self.source, self._dataset)


def load_records(source: DataSource, kind: type[R], on_invalid: Literal["error", "skip"] = "error") -> LoadedRecords[R]:
    """Read and check all rows of a source into memory; see `RecordStream` for arguments and errors."""
    stream = RecordStream(source, kind, on_invalid)
    return LoadedRecords(list(stream), stream.report)


@dataclass
class _Tally:
    """What the rows of a source have in sum; all but `skipped` is of the valid ones."""

    num_rows: int = 0
    num_records: int = 0
    num_ties: int = 0
    num_stripped: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unknown_columns: set[str] = field(default_factory=set)
    dropped_message_keys: set[str] = field(default_factory=set)
    skipped: dict[str, list[int]] = field(default_factory=dict)

    @property
    def num_invalid(self) -> int:
        return sum(map(len, self.skipped.values()))

    def add(self, row: Row, num_records: int) -> None:
        self.num_rows += 1
        self.num_records += num_records
        self.num_ties += row.num_ties
        self.num_stripped += sum(count > 0 for count in row.stripped.values())
        self.shapes[row.shape] += 1
        if row.label:
            self.labels[row.label] += 1
        self.unknown_columns |= row.extra().keys()
        self.dropped_message_keys |= row.dropped_message_keys


def _explain(source: DataSource, complaints: list[str], tally: _Tally) -> str:
    num_valid, num_invalid = tally.num_rows, tally.num_invalid
    if not num_invalid and num_valid:
        return f"all {tally.num_ties} pairs of {source.path} are ties; expected a ranked list with different ranks"
    if not num_invalid:
        return f"{source.path} holds no rows; expected at least one"
    name = Path(source.path).name if Path(source.path).is_file() else source.path
    lines = [f"{num_invalid} of {num_valid + num_invalid} rows in {source.path} are invalid:"]
    lines += [f"{name}, {complaint}" for complaint in complaints]
    if num_invalid > len(complaints):
        lines.append(f"... and {num_invalid - len(complaints)} more.")
    if num_valid:
        lines.append("Repair the rows, or set `on_invalid: skip` to leave them out and list them in the report.")
    else:
        lines.append("No row is valid, so `on_invalid: skip` would leave nothing.")
    return "\n".join(lines)


def _renamed(raw: Mapping[str, Any], columns: Mapping[str, str | None]) -> dict[str, Any]:
    """The row under prl's names. A column whose name a mapped one takes over is gone, so nobody reads the wrong one."""
    kept = {name: value for name, value in raw.items() if name not in columns and name not in columns.values()}
    mapped = {ours: theirs for ours, theirs in columns.items() if theirs is not None and theirs in raw}
    return kept | {ours: raw[theirs] for ours, theirs in mapped.items()}


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    # Bytes are read by line and decoded one line at a time, so that one bad byte costs one row.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_object(line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is damaged and cannot be unpacked: {error}") from error


def _json_object(line: bytes) -> Mapping[str, Any] | RowError:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowError("undecodable text", None, f"byte 0x{line[error.start]:02x} at position {error.start}")
    except (ValueError, RecursionError) as error:
        return RowError("invalid JSON", None, f"{line[:40]!r}: {error}")
    if not isinstance(value, dict):
        return RowError("invalid JSON", None, f"a {type(value).__name__}")
    return value


def _check_there(source: DataSource) -> None:
    path = Path(source.path)
    if (path.name.endswith(_SUFFIXES) or source.path.startswith(("/", "./", "../", "~"))) and not path.exists():
        raise DataError(
            f"no data file at {source.path} (looked for {path.absolute()}); "
            "expected a local file, or a hub id such as owner/name"
        )


def _load_dataset(source: DataSource) -> Any:
    import datasets  # a second to import, and .jsonl files are read without it

    _check_there(source)
    path = Path(source.path)
    streaming = {"streaming": True} if source.streaming else {}
    try:
        if path.is_file():
            # An answer may well be "NA" or "null": only an empty cell is no value.
            cells = {"keep_default_na": False, "na_values": [""]} if path.suffix == ".csv" else {}
            builder = _BUILDERS[path.suffix]
            return datasets.load_dataset(builder, data_files=str(path), split="train", **cells, **streaming)
        loaded = datasets.load_dataset(source.path, name=source.name, split=source.split, **streaming)
    except Exception as error:  # the readers and the hub client raise many unrelated classes
        raise _unreadable(source, error) from error
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) > 1:
        raise DataError(f"{source.path} has the splits {', '.join(loaded)}; choose one with `split`")
    return next(iter(loaded.values()))


def _dataset_rows(source: DataSource, dataset: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        yield from enumerate(dataset, start=1)
    except Exception as error:  # what is streamed is read only now
        raise _unreadable(source, error) from error


def _unreadable(source: DataSource, error: Exception) -> DataError:
    cause = f"{type(error).__name__}: {error.__cause__ or error}"
    path = Path(source.path)
    if path.is_file():
        return DataError(f"{source.path} cannot be read as {path.suffix}: {cause}")
    return DataError(
        f"{source.path} is not a local file, and the hub data set could not be loaded "
        f"(name={source.name}, split={source.split}): {cause}"
    )


def _hub_commit(name: str) -> str | None:
    """The commit that a hub id stands for now; None where the hub does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception:  # the hub client raises many unrelated classes; reading the rows will tell what is wrong
        return None
