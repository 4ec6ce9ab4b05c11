"""Prompts with anchor responses for pairwise PPO."""

from datamodules.base import RecordDataModule
from prl.data import AnchoredPrompt


class PromptDataModule(RecordDataModule):
    """Rows with prompt and anchor (one or several); see `RecordDataModule` for the arguments."""

    record_type = AnchoredPrompt
