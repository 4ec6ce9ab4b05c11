"""Kinds of data row with pictures, which a row names by their files (`prl/data/images.py`)."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from prl.data.rows.messages import cell_text
from prl.data.rows.records import AnchoredPrompt, PreferencePair, Record
from prl.data.rows.row_errors import RowError, shown
from prl.data.rows.row_reader import RowReader


@dataclass(frozen=True)
class ImagePair(PreferencePair):
    """Two pictures for one prompt, in any shape that pairs of texts may have: their cells name pictures."""


@dataclass(frozen=True)
class ImagePrompt(AnchoredPrompt):
    """A prompt to make pictures for."""


@dataclass(frozen=True)
class CaptionedImage(Record):
    """A picture and what it shows."""

    columns: ClassVar = ("prompt", "image")
    shapes: ClassVar = {("prompt", "image"): "the columns prompt and image"}

    image: str
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the record from a row that is being checked. Raises RowError."""
        row.shape = "prompt, image"
        prompt = row.prompt()
        return [cls(prompt, cell_text(row.take("image"), "image", "the name of a picture").strip(), row.extra())]


@dataclass(frozen=True)
class PictureQuestion(Record):
    """Pictures, and the answer to a question about them, which begins with Yes or No and may go on with reasons."""

    columns: ClassVar = ("prompt", "images", "answer")
    shapes: ClassVar = {("prompt", "images", "answer"): "the columns prompt, images and answer"}

    images: tuple[str, ...]
    answer: str
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the record from a row that is being checked. Raises RowError."""
        row.shape = "prompt, images, answer"
        prompt, images = row.prompt(), row.take("images")
        if not isinstance(images, list) or not images:
            raise RowError("no pictures", "images", shown(images), expected="a list of one picture at least")
        names = tuple(cell_text(each, f"images[{n}]", "the name of a picture").strip() for n, each in enumerate(images))
        answer = cell_text(row.take("answer"), "answer").strip()
        if re.match(r"(Yes|No)\b", answer) is None:
            expected, fix = "a text that begins with Yes or No", "Write the verdict first, and the reasons behind it."
            raise RowError("no verdict", "answer", shown(answer), expected=expected, fix=fix)
        return [cls(prompt, names, answer, row.extra())]
