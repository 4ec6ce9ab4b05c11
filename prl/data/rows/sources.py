"""Sources of rows: a file of one of four kinds, or a data set on the hub; each raw row has its number."""

import glob
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl.data.rows.csv_rows import csv_rows
from prl.data.rows.json_rows import json_rows, line_rows
from prl.data.rows.parquet_rows import parquet_rows
from prl.data.rows.row_errors import DataError, RawRow

__all__ = [
    "DataError",
    "DataSource",
    "RawRow",
    "check_there",
    "file_hash",
    "hub_commit",
    "is_written",
    "load_dataset",
    "raw_rows",
]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")


@dataclass(frozen=True)
class DataSource:
    """A source of rows. Raises ValueError if a field makes no sense."""

    path: str
    """Local .jsonl, .jsonl.gz, .json, .parquet or .csv file, a folder of .parquet files, or the id of a data set on the
    Hugging Face hub."""
    split: str | None = None
    """Split of a hub data set, as `datasets` writes it (`train`, `test[:10%]`); needed if there are several."""
    name: str | None = None
    """Subset (configuration) of a hub data set."""
    columns: dict[str, str | None] | None = None
    """Mapping of columns: prl's name -> the column in the file, such as `{prompt: question}`; null leaves a column of
    prl's name unread."""
    limit: int | None = None
    """Read at most so many rows, from the first."""
    streaming: bool = False
    """Read a hub data set over the network, without the copy on disk that `datasets` makes first. Rows, checks and
    report do not change. Local files are always read in place."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; expected at least 1 row, or null for all rows")


def raw_rows(source: DataSource, dataset: Callable[[], Any]) -> Iterator[tuple[int, RawRow]]:
    """Yield every row with its number, from 1; in .jsonl files the line.

    Args:
        source: file or hub data set.
        dataset: returns `load_dataset` of the source; called for anything but files.

    Raises:
        DataError: when the source cannot be read.
    """
    path = Path(source.path)
    if not path.is_file():
        return _dataset_rows(source, dataset())
    if source.split or source.name:
        raise DataError(f"{source.path} is a local file and has no split or name; remove these two settings")
    if not path.name.endswith(_SUFFIXES):
        raise DataError(f"{source.path} is a {path.suffix or 'bare'} file; expected {', '.join(_SUFFIXES)}")
    return _file_rows(path)


def is_written(source: DataSource) -> bool:
    """Return whether cells hold text alone, so that numbers are parsed from text."""
    path = Path(source.path)
    return path.suffix == ".csv" and path.is_file()


def _file_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    number = 0
    try:
        for number, row in _rows_of_kind(path):
            yield number, row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged and cannot be unpacked: {error} (behind row {number})") from error
    except OSError as error:
        raise _unreadable_file(path, error) from error


def _rows_of_kind(path: Path) -> Iterator[tuple[int, RawRow]]:
    readers = {".parquet": parquet_rows, ".csv": csv_rows, ".json": json_rows}
    if path.suffix in readers:
        yield from readers[path.suffix](path)
        return
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        yield from line_rows(lines)


def file_hash(path: Path) -> str:
    """Compute the SHA-256 of a file. Raises DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable_file(path, error) from error


def _unreadable_file(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}")


def check_there(source: DataSource) -> None:
    """Raise DataError for a missing file."""
    path = Path(source.path)
    if (path.name.endswith(_SUFFIXES) or source.path.startswith(("/", "./", "../", "~"))) and not path.exists():
        raise DataError(
            f"no data file at {source.path} (looked for {path.absolute()}); "
            "expected a local file, or a hub id such as owner/name"
        )


def load_dataset(source: DataSource) -> Any:
    """Load the rows of a hub data set, or of a folder, by `datasets`. Raises DataError."""
    import datasets  # a second to import, and files are read without it

    check_there(source)
    settings: dict[str, Any] = {"streaming": True} if source.streaming else {}
    if Path(source.path).is_dir():
        _check_folder(source)
        if not source.streaming:
            settings["download_mode"] = "force_redownload"  # its copy depends on time stamps, not on contents
    try:
        loaded = datasets.load_dataset(source.path, name=source.name, split=source.split, **settings)
    except Exception as error:  # the readers and the hub client raise many unrelated classes
        raise _unreadable(source, error) from error
    if not isinstance(loaded, dict):
        return _closed(loaded)
    if len(loaded) > 1:
        raise DataError(f"{source.path} has the splits {', '.join(loaded)}; choose one with `split`")
    return _closed(next(iter(loaded.values())))


def _check_folder(source: DataSource) -> None:
    """Raise DataError for a folder of files without types: `datasets` guesses them, and 00 becomes 0."""
    import datasets

    if glob.has_magic(where := str(Path(source.path).resolve())):
        raise DataError(f"{where} has a bracket, * or ? in its path, which is read as a pattern; rename the folder")
    try:
        builder = datasets.load_dataset_builder(source.path, name=source.name)
    except Exception as error:  # the readers raise many unrelated classes
        raise _unreadable(source, error) from error
    files = {str(path) for paths in (builder.config.data_files or {}).values() for path in paths}
    files |= {str(path) for path in Path(where).rglob("*") if path.name.endswith((".jsonl", ".jsonl.gz", ".csv"))}
    if untyped := sorted(path for path in files if not path.endswith((".parquet", ".arrow"))):
        more = f" and {len(untyped) - 3} more" if len(untyped) > 3 else ""
        raise DataError(
            f"{source.path} is a folder with {', '.join(untyped[:3])}{more}; of a folder, prl reads parquet and arrow "
            "files alone, since others do not say which types they hold. Give the path of one file; join several into "
            "one first"
        )


def _closed(dataset: Any) -> Any:
    """Drop features that open a file or an address named in a row, as images do."""
    for name, feature in (getattr(dataset, "features", None) or {}).items():
        closed = _without_decoding(deepcopy(feature))
        if closed != feature:
            dataset = dataset.cast_column(name, closed)
    return dataset


def _without_decoding(feature: Any) -> Any:
    if hasattr(feature, "decode") and not callable(feature.decode):
        feature.decode = False
    inner = feature.values() if isinstance(feature, dict) else feature if isinstance(feature, list) else ()
    for each in (*inner, getattr(feature, "feature", None)):
        if each is not None:
            _without_decoding(each)
    return feature


def _dataset_rows(source: DataSource, dataset: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        yield from enumerate(dataset, start=1)
    except Exception as error:  # streamed rows are read only now
        raise _unreadable(source, error) from error


def _unreadable(source: DataSource, error: Exception) -> DataError:
    cause = f"{type(error).__name__}: {error.__cause__ or error}"
    if Path(source.path).is_dir():
        return DataError(f"{source.path} is a folder that cannot be read as a data set (split={source.split}): {cause}")
    return DataError(
        f"{source.path} is not a local file, and the hub data set could not be loaded "
        f"(name={source.name}, split={source.split}): {cause}"
    )


def hub_commit(name: str) -> str | None:
    """Look up the current commit of a hub id; None where the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception:  # the hub client raises many unrelated classes; reading the rows reports the error
        return None
