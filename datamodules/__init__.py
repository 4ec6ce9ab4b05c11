"""LightningDataModules of all training modules; short class names work in YAML."""

from datamodules.demonstrations import DemonstrationDataModule
from datamodules.images import (
    CaptionedImageDataModule,
    ImagePairDataModule,
    ImagePromptDataModule,
    PictureQuestionDataModule,
)
from datamodules.preference_pairs import PreferencePairDataModule
from datamodules.prompts import PromptDataModule
from datamodules.trajectories import TrajectoryDataModule

__all__ = [
    "CaptionedImageDataModule",
    "DemonstrationDataModule",
    "ImagePairDataModule",
    "ImagePromptDataModule",
    "PictureQuestionDataModule",
    "PreferencePairDataModule",
    "PromptDataModule",
    "TrajectoryDataModule",
]
