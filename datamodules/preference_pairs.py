"""Preference pairs for the generative judge and the Bradley-Terry baseline."""

from datamodules.base import RecordDataModule
from prl.data import PreferencePair


class PreferencePairDataModule(RecordDataModule):
    """Rows with prompt, chosen, rejected and optionally preference; see `RecordDataModule` for the arguments."""

    record_type = PreferencePair
