"""Data: shapes of rows, reading and checks, and batches."""

from prl.data.batching import LengthGroupedBatchSampler
from prl.data.rows.reading import DataReport, LoadedRecords, RecordStream, load_records
from prl.data.rows.records import AnchoredPrompt, Demonstration, PreferencePair, Record, RowError, prompt_key
from prl.data.rows.sources import DataError, DataSource
from prl.data.splits import held_out

__all__ = [
    "AnchoredPrompt",
    "DataError",
    "DataReport",
    "DataSource",
    "Demonstration",
    "LengthGroupedBatchSampler",
    "LoadedRecords",
    "PreferencePair",
    "Record",
    "RecordStream",
    "RowError",
    "held_out",
    "load_records",
    "prompt_key",
]
