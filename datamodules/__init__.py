"""LightningDataModules of all training modules; short class names work in YAML."""

from datamodules.demonstrations import DemonstrationDataModule
from datamodules.preference_pairs import PreferencePairDataModule
from datamodules.prompts import PromptDataModule
from datamodules.trajectories import TrajectoryDataModule

__all__ = ["DemonstrationDataModule", "PreferencePairDataModule", "PromptDataModule", "TrajectoryDataModule"]
