"""Data: what a row may look like, how it is read and checked, and how rows form batches."""

from prl.data.batching import LengthGroupedBatchSampler
from prl.data.reading import DataError, DataReport, DataSource, LoadedRecords, load_records, split_by_prompt
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
    "RowError",
    "load_records",
    "prompt_key",
    "split_by_prompt",
]
