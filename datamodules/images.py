"""Rows with pictures: pairs of them, pictures with captions, and prompts to make pictures for."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import RecordDataModule
from datamodules.preference_pairs import PreferencePairDataModule
from prl.data import DataSource
from prl.data.image_encoding import image_hash
from prl.data.rows.image_records import CaptionedImage, ImagePair, ImagePrompt, PictureQuestion
from prl.data.store import EncodedRecords


class _ImageFiles(RecordDataModule):
    """Reads names of pictures relative to the folder of their rows, and hashes the pictures for a resume."""

    def _encode(self, name: str, source: DataSource, reports: dict[str, Any]) -> tuple[EncodedRecords, np.ndarray]:
        path = Path(source.path)
        with self.encoder.reading(path if path.is_dir() else path.parent):
            records, kept = super()._encode(name, source, reports)
        self._contents[f"data.{name}.pictures"] = image_hash(records.rows)
        return records, kept


class ImagePairDataModule(_ImageFiles, PreferencePairDataModule):
    """Pairs of pictures in any shape of docs/data.md whose responses name pictures; docs/methods/images.md.

    Args:
        train: source of training rows.
        cache: keep what was found of rows and pictures in prl's cache folder. A picture that changes later is then
            refused when a batch reads it.
        settings: the other arguments of `PreferencePairDataModule`.

    Raises:
        DataError: for bad rows or pictures, or a data set without rows to train on.
    """

    record_type = ImagePair

    def __init__(self, train: DataSource, cache: bool = False, **settings: Any) -> None:
        super().__init__(train, cache=cache, **settings)


class CaptionedImageDataModule(_ImageFiles):
    """Pictures with captions, rows of prompt and image; see `ImagePairDataModule` for the arguments."""

    record_type = CaptionedImage

    def __init__(self, train: DataSource, cache: bool = False, **settings: Any) -> None:
        super().__init__(train, cache=cache, **settings)


class PictureQuestionDataModule(_ImageFiles):
    """Pictures with the answer to a question, rows of prompt, images and answer; arguments as `ImagePairDataModule`."""

    record_type = PictureQuestion

    def __init__(self, train: DataSource, cache: bool = False, **settings: Any) -> None:
        super().__init__(train, cache=cache, **settings)


class ImagePromptDataModule(RecordDataModule):
    """Prompts to make pictures for; see `RecordDataModule` for the arguments."""

    record_type = ImagePrompt
