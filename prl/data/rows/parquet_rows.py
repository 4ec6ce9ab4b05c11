"""Rows of Parquet files, with Arrow's values; metadata of other libraries is not read."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl.data.rows.row_errors import DataError, RawRow, RowError, printable

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 256
"""Rows held in memory; a few of the longest ones are megabytes."""


def parquet_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """Yield each row with its number, from 1.

    Raises:
        DataError: where the file is damaged, no Parquet file, or has two columns of one name.
    """
    import pyarrow as pa  # a moment to import, and other files are read without it
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise DataError(f"{path} has the column {twice!r} twice; rename or remove one of them")
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                batch.validate()
                for row in _rows(batch):
                    number += 1
                    yield number, row
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(
            f"{path} cannot be read as .parquet: {printable(str(error))} (behind row {number}); write or copy it again"
        ) from error


def _rows(batch: "pa.RecordBatch") -> Iterator[RawRow]:
    try:
        rows = batch.to_pylist()
    except Exception:  # a value without a Python object; the cells show which
        yield from (_row(batch, number) for number in range(batch.num_rows))
    else:
        yield from rows


def _row(batch: "pa.RecordBatch", number: int) -> RawRow:
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[number].as_py()
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
            return RowError("undecodable text", name, found)
        except Exception as error:  # Arrow's types raise many classes
            return RowError("unreadable value", name, f"{column.type}: {error}")
    return row
