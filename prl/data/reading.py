"""Reads a data file or a hub data set into checked records, and says exactly which rows were bad and why."""

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from prl.data.records import Record, prompt_key
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


def load_records(source: DataSource, kind: type[R], on_invalid: Literal["error", "skip"] = "error") -> LoadedRecords[R]:
    """Read and check all rows of a source.

    Args:
        source: file or hub data set.
        kind: record class that the rows must form.
        on_invalid: "error" looks at every row and then raises once; "skip" leaves bad rows out and reports them.

    Raises:
        DataError: the source cannot be read, has a bad row under "error", or no good row at all.
        ValueError: `on_invalid` or a name in `source.columns` is not one of the accepted ones.
    """
    if on_invalid not in ("error", "skip"):
        raise ValueError(f"on_invalid is {on_invalid!r}; expected 'error' or 'skip'")
    if unknown := sorted(set(source.columns or {}) - set(kind.columns)):
        raise ValueError(f"columns maps {unknown}; a {kind.__name__} has the fields {list(kind.columns)}")
    records: list[R] = []
    tally = _Tally()
    skipped: dict[str, list[int]] = {}
    complaints: list[str] = []
    for number, raw in islice(_numbered_rows(source), source.limit):
        try:
            if isinstance(raw, RowError):
                raise raw
            row = kind.row(_renamed(raw, source.columns or {}))
            records += kind.from_row(row)
        except RowError as error:
            skipped.setdefault(error.reason, []).append(number)
            if len(complaints) < MAX_ERRORS_SHOWN:
                complaints.append(f"row {number}{':' if error.field is None else ','} {error}")
            continue
        tally.add(row)
    num_invalid = sum(map(len, skipped.values()))
    if not records or (num_invalid and on_invalid == "error"):
        raise DataError(_explain(source, complaints, num_invalid, tally))
    report = DataReport(
        source=source.path,
        sha256=_sha256(Path(source.path)),
        kind=kind.__name__,
        num_read=tally.num_rows + num_invalid,
        num_kept=tally.num_rows,
        num_records=len(records),
        num_ties=tally.num_ties,
        num_stripped=tally.num_stripped,
        shapes=dict(tally.shapes),
        labels=dict(tally.labels),
        skipped=skipped,
        unknown_columns=sorted(tally.unknown_columns),
        dropped_message_keys=sorted(tally.dropped_message_keys),
    )
    return LoadedRecords(records, report)


@dataclass
class _Tally:
    """What the valid rows of a source have in sum."""

    num_rows: int = 0
    num_ties: int = 0
    num_stripped: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unknown_columns: set[str] = field(default_factory=set)
    dropped_message_keys: set[str] = field(default_factory=set)

    def add(self, row: Row) -> None:
        self.num_rows += 1
        self.num_ties += row.num_ties
        self.num_stripped += sum(count > 0 for count in row.stripped.values())
        self.shapes[row.shape] += 1
        if row.label:
            self.labels[row.label] += 1
        self.unknown_columns |= row.extra().keys()
        self.dropped_message_keys |= row.dropped_message_keys


def split_by_prompt(records: Sequence[R], validation_share: float, seed: int) -> tuple[list[R], list[R]]:
    """Split records into train and validation so that all records of a prompt are on one side.

    Prompts are ranked by a hash of seed and content, and the first share of them is held out. So the row order does not
    matter, and new data moves few old prompts to the other side. Each side keeps the given order.

    Raises:
        ValueError: `validation_share` is not in [0, 1), or there are too few prompts for two sides.
    """
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}; expected a number in [0, 1)")
    if validation_share == 0:
        return list(records), []
    keys = [prompt_key(record.prompt) for record in records]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    if len(ranked) < 2:
        raise ValueError(f"validation_share is {validation_share}, but {len(ranked)} prompt(s) cannot fill two sides")
    num_held_out = min(max(round(validation_share * len(ranked)), 1), len(ranked) - 1)
    held_out = set(ranked[:num_held_out])
    train = [record for record, key in zip(records, keys, strict=True) if key not in held_out]
    validation = [record for record, key in zip(records, keys, strict=True) if key in held_out]
    return train, validation


def _explain(source: DataSource, complaints: list[str], num_invalid: int, tally: _Tally) -> str:
    num_valid = tally.num_rows
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


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _numbered_rows(source: DataSource) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    """Every row with its number, or the reason why it cannot be read."""
    path = Path(source.path)
    if path.is_file():
        if source.split or source.name:
            raise DataError(f"{source.path} is a local file and has no split or name; remove these two settings")
        if not path.name.endswith(_SUFFIXES):
            raise DataError(f"{source.path} is a {path.suffix or 'bare'} file; expected {', '.join(_SUFFIXES)}")
        if path.suffix not in _BUILDERS:
            return _jsonl_rows(path)
    elif not path.is_dir() and (path.name.endswith(_SUFFIXES) or source.path.startswith(("/", "./", "../", "~"))):
        raise DataError(
            f"no data file at {source.path} (looked for {path.absolute()}); "
            "expected a local file, or a hub id such as owner/name"
        )
    return enumerate(_load_dataset(source), start=1)


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


def _load_dataset(source: DataSource) -> Any:
    import datasets  # seconds to import, and .jsonl files do not need it

    path = Path(source.path)
    try:
        if path.is_file():
            # An answer may well be "NA" or "null": only an empty cell is no value.
            cells = {"keep_default_na": False, "na_values": [""]} if path.suffix == ".csv" else {}
            return datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train", **cells)
        loaded = datasets.load_dataset(source.path, name=source.name, split=source.split)
    except Exception as error:  # the readers and the hub client raise many unrelated classes
        cause = f"{type(error).__name__}: {error.__cause__ or error}"
        if path.is_file():
            raise DataError(f"{source.path} cannot be read as {path.suffix}: {cause}") from error
        raise DataError(
            f"{source.path} is not a local file, and the hub data set could not be loaded "
            f"(name={source.name}, split={source.split}): {cause}"
        ) from error
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) > 1:
        raise DataError(f"{source.path} has the splits {', '.join(loaded)}; choose one with `split`")
    return next(iter(loaded.values()))
