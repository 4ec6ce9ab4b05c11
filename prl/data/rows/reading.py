"""Reading of a data file or a hub data set into checked records, with an exact report of bad rows."""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Any, Generic, Literal, TypeVar

from prl.data.rows.messages import odd_order
from prl.data.rows.records import Record
from prl.data.rows.row_errors import RowError
from prl.data.rows.row_reader import RowReader
from prl.data.rows.sources import (
    DataError,
    DataSource,
    check_there,
    file_hash,
    hub_commit,
    is_written,
    load_dataset,
    raw_rows,
)

MAX_ERRORS_SHOWN = 20
ROWS_SHOWN = 8
"""Numbers of rows in a text; a report has all."""
_SKIP = "`data.init_args.on_invalid: skip`"
_NOTHING_LEFT = f"No row is valid, so {_SKIP} would leave nothing."

_POSITION = re.compile(r"\[\d+\]")

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class DataReport:
    """Counts over the rows of one source. Row numbers count from 1; in .jsonl files they are line numbers."""

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
    """Records made of the kept rows; a ranked list gives several."""
    num_ties: int
    """Pairs of ranked lists left out because their ranks are equal."""
    num_stripped: int
    """Responses that lost leading or trailing white space."""
    shapes: dict[str, int]
    """Columns that records were made of -> number of kept rows."""
    labels: dict[str, int]
    """Column of the label -> number of kept rows; empty for kinds without labels."""
    skipped: dict[str, list[int]]
    """Reason -> numbers of the rows skipped for it."""
    unknown_columns: list[str]
    """Columns that were not read, kept in each record's `extra`."""
    odd_orders: dict[str, dict[str, int]]
    """Unusual order of roles in a prompt, which chat templates may refuse -> `rows` kept with it, and the `first`."""
    dropped_message_keys: list[str]
    """Keys beside role and content that were seen in messages and not kept."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    def write(self, path: str | Path) -> None:
        """Write the report as JSON, making the folder if need be."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class LoadedRecords(Generic[R]):
    """The valid records of a source in file order, and the report of their reading."""

    records: list[R]
    report: DataReport


class RecordStream(Generic[R]):
    """The valid records of a source in file order, one at a time, and afterwards the report of their reading.

    Iterating raises DataError if the source cannot be read or, at its end, if no row has a mapped column, one is bad
    under "error", or none is good. From the first bad row under "error" on, rows are only checked.

    Args:
        source: file or hub data set.
        kind: record class that the rows must form.
        on_invalid: "error" looks at every row and then raises once; "skip" leaves bad rows out and reports them.
        further: names of further columns that the caller reads, which `source.columns` may map as well.

    Attributes:
        row: number of the row that the last record came from.

    Raises:
        ValueError: `on_invalid` or a name in `source.columns` is not one of the accepted ones.
    """

    def __init__(
        self,
        source: DataSource,
        kind: type[R],
        on_invalid: Literal["error", "skip"] = "error",
        further: Sequence[str] = (),
    ) -> None:
        if on_invalid not in ("error", "skip"):
            raise ValueError(f"on_invalid is {on_invalid!r}; expected 'error' or 'skip'")
        fields = [*kind.columns, *further]
        if unknown := sorted(set(source.columns or {}) - set(fields)):
            raise ValueError(f"columns maps {unknown}; a {kind.__name__} has the fields {fields}")
        self.source, self.kind, self.on_invalid = source, kind, on_invalid
        self.row = 0
        self._tally = _Tally()
        self._refusal: RowError | None = None

    def refuse(self, error: RowError) -> None:
        """Count the row of the last record as bad, for a caller that cannot use it."""
        self._refusal = error

    def __iter__(self) -> Iterator[R]:
        tally = self._tally = _Tally()
        complaints: dict[tuple[str, str], tuple[str, list[int]]] = {}
        found: set[str] = set()
        written, before = is_written(self.source), self._stamp
        is_readable = True
        for number, raw in islice(raw_rows(self.source, lambda: self._dataset), self.source.limit):
            self.row = number
            try:
                if isinstance(raw, RowError):
                    raise raw
                found |= raw.keys()
                row = self.kind.row(renamed(raw, self.source.columns or {}), written)
                records = self.kind.from_row(row)
                if is_readable or self.on_invalid == "skip":
                    yield from self._unless_refused(records)
            except RowError as error:
                is_readable = is_readable and error is self._refusal
                tally.skipped.setdefault(error.reason, []).append(number)
                cause = (error.reason, _POSITION.sub("", error.field or ""))
                if cause in complaints:
                    complaints[cause][1].append(number)
                elif len(complaints) < MAX_ERRORS_SHOWN:
                    complaints[cause] = (f"row {number}{':' if error.field is None else ','} {error}", [number])
                continue
            tally.add(row, len(records))
            if records and (order := odd_order(records[0].prompt)) is not None:
                tally.odd_orders.setdefault(order, {"rows": 0, "first": number})["rows"] += 1
        if _stamp(self.source.path) != before:
            raise DataError(f"{self.source.path} was changed while it was read; start again once it stays as it is")
        if missing := _missing_column(self.source, found):
            raise DataError(missing)
        if not tally.num_records or (tally.skipped and self.on_invalid == "error"):
            raise DataError(_explain(self, list(complaints.values()), tally))

    def _unless_refused(self, records: Iterable[R]) -> Iterator[R]:
        """Read the records of one row. Raises RowError when one of them is refused."""
        for record in records:
            self._refusal = None
            yield record
            if self._refusal is not None:
                raise self._refusal

    def content_hash(self) -> str | None:
        """Hash the content of the source; None where that is not possible, as for a folder of files.

        For a hub data set it is the fingerprint of `datasets`, or the commit if it is streamed.
        """
        path = Path(self.source.path)
        if path.is_file():
            return self._sha256
        check_there(self.source)
        if path.is_dir():
            return None
        return hub_commit(self.source.path) if self.source.streaming else self._dataset._fingerprint

    @property
    def report(self) -> DataReport:
        """Report of the reading, complete once all rows are read."""
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
            odd_orders=tally.odd_orders,
            dropped_message_keys=sorted(tally.dropped_message_keys),
        )

    @cached_property
    def _stamp(self) -> tuple[int, ...] | None:
        return _stamp(self.source.path)

    @cached_property
    def _sha256(self) -> str | None:
        path, _ = Path(self.source.path), self._stamp  # to notice a file that changes in between
        return file_hash(path) if path.is_file() else None

    @cached_property
    def _dataset(self) -> Any:
        return load_dataset(self.source)


def load_records(
    source: DataSource,
    kind: type[R],
    on_invalid: Literal["error", "skip"] = "error",
    check: Callable[[R], object] | None = None,
    further: Sequence[str] = (),
) -> LoadedRecords[R]:
    """Read and check all rows of a source into memory; see `RecordStream` for arguments and errors.

    `check` may raise RowError for a record that the caller cannot use.
    """
    stream = RecordStream(source, kind, on_invalid, further)
    records = []
    for record in stream:
        try:
            if check is not None:
                check(record)
            records.append(record)
        except RowError as error:
            stream.refuse(error)
    return LoadedRecords(records, stream.report)


@dataclass
class _Tally:
    """Running totals over the rows of a source; all but `skipped` count valid rows."""

    num_rows: int = 0
    num_records: int = 0
    num_ties: int = 0
    num_stripped: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unknown_columns: set[str] = field(default_factory=set)
    dropped_message_keys: set[str] = field(default_factory=set)
    skipped: dict[str, list[int]] = field(default_factory=dict)
    odd_orders: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def num_invalid(self) -> int:
        return sum(map(len, self.skipped.values()))

    def add(self, row: RowReader, num_records: int) -> None:
        self.num_rows += 1
        self.num_records += num_records
        self.num_ties += row.num_ties
        self.num_stripped += sum(count > 0 for count in row.stripped.values())
        self.shapes[row.shape] += 1
        if row.label:
            self.labels[row.label] += 1
        self.unknown_columns |= row.extra().keys()
        self.dropped_message_keys |= row.dropped_message_keys


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return inode, size and time of a file, which change when it is rewritten; None where there is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else None


def _missing_column(source: DataSource, found: set[str]) -> str | None:
    """Describe a mapped column that no row has; without an error its field would be left out silently."""
    for ours, theirs in (source.columns or {}).items():
        if theirs is None or theirs in found or not found:
            continue
        close = get_close_matches(theirs, sorted(found), n=1)
        return (
            f"columns maps {ours} to {theirs!r}, which no row of {source.path} has; its columns are "
            f"{', '.join(map(repr, sorted(found)))}" + (f". Is {close[0]!r} meant?" if close else "")
        )
    return None


def _explain(stream: RecordStream[Any], complaints: list[tuple[str, list[int]]], tally: _Tally) -> str:
    """Say how many rows are bad, with a line for each cause: its first row in words, the others by number."""
    source, num_valid, num_invalid = stream.source, tally.num_rows, tally.num_invalid
    if not num_invalid and num_valid:
        return f"all {tally.num_ties} pairs of {source.path} are ties; expected a ranked list with different ranks"
    if not num_invalid:
        return f"{source.path} holds no rows; expected at least one"
    name = Path(source.path).name if Path(source.path).is_file() else source.path
    lines = [f"{num_invalid} of {num_valid + num_invalid} rows in {source.path} are invalid:"]
    lines += [f"{name}, {complaint}{_others(rows[1:])}" for complaint, rows in complaints]
    if rest := num_invalid - sum(len(rows) for _, rows in complaints):
        lines.append(f"... and {rest} more.")
    if num_valid and stream.on_invalid == "skip":
        lines.append(f"The others are ranked lists of {tally.num_ties} ties, which leave no pair.")
    elif num_valid:
        lines.append(f"Repair the rows, or set {_SKIP} to leave them out and list them in the report.")
    else:
        lines.append("No row is valid, so nothing is left." if stream.on_invalid == "skip" else _NOTHING_LEFT)
    return "\n".join(lines)


def _others(rows: list[int]) -> str:
    """Name the further rows with an error by their number and the first of them."""
    if not rows:
        return ""
    listed = ", ".join(map(str, rows[:ROWS_SHOWN])) + (", ..." if len(rows) > ROWS_SHOWN else "")
    return f" {len(rows)} more like it: row{'s' * (len(rows) > 1)} {listed}"


def renamed(raw: Mapping[str, Any], columns: Mapping[str, str | None]) -> dict[str, Any]:
    """Rename a row's columns to prl's names.

    A column whose name a mapped column takes is dropped, so that it is never read.
    """
    kept = {name: value for name, value in raw.items() if name not in columns and name not in columns.values()}
    mapped = {ours: theirs for ours, theirs in columns.items() if theirs is not None and theirs in raw}
    return kept | {ours: raw[theirs] for ours, theirs in mapped.items()}
