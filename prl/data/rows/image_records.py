"""Kinds of data row with pictures, which a row names by their files (`prl/data/images.py`)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from prl.data.rows.messages import cell_text
from prl.data.rows.records import AnchoredPrompt, PreferencePair, Record
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
