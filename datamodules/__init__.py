"""LightningDataModules of all training modules; short class names work in YAML."""

from datamodules.demonstrations import DemonstrationDataModule
from datamodules.preference_pairs import PreferencePairDataModule
from datamodules.prompts import PromptDataModule

__all__ = ["DemonstrationDataModule", "PreferencePairDataModule", "PromptDataModule"]
