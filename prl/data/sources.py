"""Where rows come from, and each raw row with its number: lines of a file, a table, a data set on the hub."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl.data.row_errors import RowError

_BUILDERS = {".json": "json", ".parquet": "parquet", ".csv": "csv"}
_EMPTY = ("corresponds to no data", "No columns to parse from file", "StopIteration")
_SUFFIXES = (".jsonl", ".jsonl.gz", *_BUILDERS)


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


RawRow = Mapping[str, Any] | RowError
"""The cells of a row by column, or the reason why it cannot be read."""


def raw_rows(source: DataSource, dataset: Callable[[], Any]) -> Iterator[tuple[int, RawRow]]:
    """Every row with its number, from 1; in .jsonl files the line.

    Args:
        source: file or hub data set.
        dataset: gives what `load_dataset` returns for the source; called for anything but .jsonl files.

    Raises:
        DataError: when the source cannot be read.
    """
    path = Path(source.path)
    if path.is_file():
        if source.split or source.name:
            raise DataError(f"{source.path} is a local file and has no split or name; remove these two settings")
        if not path.name.endswith(_SUFFIXES):
            raise DataError(f"{source.path} is a {path.suffix or 'bare'} file; expected {', '.join(_SUFFIXES)}")
        if path.suffix not in _BUILDERS:
            return _jsonl_rows(path)
    return _dataset_rows(source, dataset())


def _jsonl_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    # Bytes are read by line and decoded one line at a time, so that one bad byte costs one row.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_object(line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is damaged and cannot be unpacked: {error}") from error


def _json_object(line: bytes) -> RawRow:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowError("undecodable text", None, f"byte 0x{line[error.start]:02x} at position {error.start}")
    except (ValueError, RecursionError) as error:
        return RowError("invalid JSON", None, f"{line[:40]!r}: {error}")
    if not isinstance(value, dict):
        return RowError("invalid JSON", None, f"a {type(value).__name__}")
    return value


def check_there(source: DataSource) -> None:
    """Raise DataError for what is meant as a file and is not there."""
    path = Path(source.path)
    if (path.name.endswith(_SUFFIXES) or source.path.startswith(("/", "./", "../", "~"))) and not path.exists():
        raise DataError(
            f"no data file at {source.path} (looked for {path.absolute()}); "
            "expected a local file, or a hub id such as owner/name"
        )


def load_dataset(source: DataSource) -> Any:
    """The rows of a table or a hub data set, as `datasets` gives them. Raises DataError."""
    import datasets  # a second to import, and .jsonl files are read without it

    check_there(source)
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
    # The readers have no class of their own for an empty table, only their words.
    if path.is_file() and (path.stat().st_size == 0 or any(words in cause for words in _EMPTY)):
        return DataError(f"{source.path} holds no rows; expected at least one")
    if path.is_file() and "utf-8" in cause.lower():
        return DataError(f"{source.path} is not text in UTF-8 ({cause}); write the file again as UTF-8")
    if path.is_file():
        return DataError(f"{source.path} cannot be read as {path.suffix}: {cause}")
    return DataError(
        f"{source.path} is not a local file, and the hub data set could not be loaded "
        f"(name={source.name}, split={source.split}): {cause}"
    )


def hub_commit(name: str) -> str | None:
    """The commit that a hub id stands for now; None where the hub does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception:  # the hub client raises many unrelated classes; reading the rows will tell what is wrong
        return None
