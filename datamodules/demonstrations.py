"""Demonstrations for supervised training."""

from datamodules.base import RecordDataModule
from prl.data import Demonstration


class DemonstrationDataModule(RecordDataModule):
    """Rows with prompt and completion, or messages; see `RecordDataModule` for the arguments."""

    record_type = Demonstration
