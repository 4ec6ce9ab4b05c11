"""Data: what a row may look like, how it is read and checked, and how rows form batches."""

from prl.data.batching import LengthGroupedBatchSampler
from prl.data.reading import DataReport, LoadedRecords, RecordStream, load_records
from prl.data.records import (
    AnchoredPrompt,
    Conversation,
    Demonstration,
    Message,
    PreferencePair,
    Record,
    RowError,
    prompt_key,
)
from prl.data.sources import DataError, DataSource
from prl.data.splits import held_out

__all__ = [
    "AnchoredPrompt",
    "Conversation",
    "DataError",
    "DataReport",
    "DataSource",
    "Demonstration",
    "LengthGroupedBatchSampler",
    "LoadedRecords",
    "Message",
    "PreferencePair",
    "Record",
    "RecordStream",
    "RowError",
    "held_out",
    "load_records",
    "prompt_key",
]
