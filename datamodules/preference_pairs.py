"""Preference pairs for the generative judge and the Bradley-Terry baseline."""

from datamodules.base import RecordDataModule
from prl.data import PreferencePair


class PreferencePairDataModule(RecordDataModule):
    """Pairs of responses in any shape of docs/data.md; see `RecordDataModule` for the arguments."""

    record_type = PreferencePair
