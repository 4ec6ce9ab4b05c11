"""Encoders of rows with pictures: which files a row reads, and batches of pixels."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from prl.data.columns import (
    missing_column,
    number_tensors,
    read_number_lists,
    read_numbers,
    read_optional,
    read_texts,
    read_user,
)
from prl.data.images import ImageFiles, as_tensor, pixel_hash
from prl.data.rows.image_records import CaptionedImage, ImagePair, ImagePrompt, PictureQuestion
from prl.data.rows.records import Record
from prl.data.rows.row_errors import RowError, shown
from prl.data.rows.sources import DataError
from prl.data.tokens import EncodingCounts, Truncation, pair_tensors, settings_hash


class NoSuchPrompt(ValueError):
    """The error of a prompt that a model cannot read, such as one that is no class; it ends in what is expected."""


COUNT = "count."
"""Prefix of the key, in a batch, of the lengths of a list."""


class ImageEncoder:
    """Base of the encoders in this file. A row keeps the names of its pictures and hashes of their pixels.

    Pixels are read when a batch is made, and a picture that has changed since is refused.

    Args:
        shape: shape of the pictures that the model makes: [C, H, W], or [C, F, H, W] of clips; None where each may have
            its own.
    """

    def __init__(self, shape: Sequence[int] | None) -> None:
        self.shape = None if shape is None else tuple(shape)
        self.counts = EncodingCounts()
        self.declared: list[str] = []
        self.count_tokens: Callable[[str], tuple[int, int]] | None = None
        """Counts the tokens of a prompt, and tells how many the model reads; None where prompts are no texts."""
        self._files = ImageFiles(".")

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""
        return settings_hash(type(self).__name__, self.shape)

    def _text(self, record: Record) -> str:
        """Return the text of a prompt. Raises RowError for several turns, and for more tokens than the model reads."""
        text = text_of(record)
        if self.count_tokens is not None:
            try:
                found, limit = self.count_tokens(text)
            except NoSuchPrompt as error:
                expected, fix = str(error).rpartition("expected ")[2], "Correct the prompt or remove the row."
                raise RowError("no such prompt", "prompt", shown(text), expected=expected, fix=fix) from None
            if found > limit:
                fix = "Shorten the prompt or remove the row."
                raise RowError("prompt too long", "prompt", f"{found} tokens", expected=f"at most {limit}", fix=fix)
        return text

    def __getstate__(self) -> dict[str, Any]:
        """Leave the tokenizers out of copies for loader workers, which read no prompts."""
        return {**vars(self), "count_tokens": None}

    @contextmanager
    def reading(self, folder: Path) -> Iterator[None]:
        """Take the names of pictures inside the block as relative to a folder."""
        self._files = ImageFiles(folder.resolve())
        yield

    def _kept(self, name: str, field: str) -> dict[str, str]:
        """Check a picture, and return what a row keeps of it."""
        pixels = self._files.read(name, field)
        found = (pixels.shape[-1], *pixels.shape[:-1])
        if self.shape is not None and found != self.shape:
            raise RowError(
                *("another size", field, f"{name!r} of {_size(found)}"),
                expected=f"pictures of {_size(self.shape)}, which the model makes",
                fix="Scale or crop the pictures, or choose a model of their size.",
            )
        return {"name": str(self._files.folder / name), "sha256": pixel_hash(pixels)}

    def _pixels(self, kept: Mapping[str, str]) -> Tensor:
        """Read a picture again for a batch. Raises DataError for one that has changed."""
        try:
            pixels = self._files.read(kept["name"], "picture")
        except RowError as error:
            raise DataError(f"{kept['name']} could be read with its row, and cannot now: {error}") from None
        if pixel_hash(pixels) != kept["sha256"]:
            raise DataError(f"{kept['name']} has changed since its row was read; start again with pictures that stay")
        return as_tensor(pixels)

    def _stacked(self, kept: Sequence[Mapping[str, str]]) -> Tensor:
        return torch.stack([self._pixels(each) for each in kept])


def _size(shape: Sequence[int]) -> str:
    channels, *frames, height, width = shape
    clip = f"{frames[0]} frames of " if frames else ""
    return f"{clip}{height}x{width} pixels with {channels} channel{'s' * (channels > 1)}"


def text_of(record: Record) -> str:
    """Return the text of a prompt. Raises RowError for a conversation of several turns."""
    if len(record.prompt) > 1:
        found, fix = f"{len(record.prompt)} messages", "Write the prompt as text."
        raise RowError("several turns", "prompt", found, expected="one text, from which pictures are made", fix=fix)
    return record.prompt[0]["content"]


def indices(rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """Collate the numbers of rows [N]; those of a batch where the data module gave none."""
    return torch.tensor([row.get("index", number) for number, row in enumerate(rows)])


class ImagePairEncoder(ImageEncoder):
    """Pairs of pictures, and further ones that an objective reads.

    Args:
        shape: shape of the pictures.
        views: pictures that are read: chosen, rejected, and further columns of the rows that name one.
        columns: columns of the rows that hold a number.
        probabilities: those of the columns that hold one from 0 to 1.
        lists: columns that hold a list of pictures; by name, the columns with a number for each.
        optional: columns of probabilities of which a row needs one at least; NaN stands where there is none.
    """

    def __init__(
        self,
        shape: Sequence[int],
        views: Sequence[str] = ("chosen", "rejected"),
        columns: Sequence[str] = (),
        probabilities: Sequence[str] = (),
        lists: Mapping[str, Sequence[str]] = MappingProxyType({}),
        optional: Sequence[str] = (),
    ) -> None:
        super().__init__(shape)
        self.optional = tuple(optional)
        self.views, self.columns, self.probabilities = tuple(views), tuple(columns), tuple(probabilities)
        self.lists = {name: tuple(numbers) for name, numbers in lists.items()}
        of_lists = [each for name, numbers in self.lists.items() for each in (name, *numbers)]
        self.declared = [*self.views[2:], *self.columns, *of_lists, *self.optional]
        self.users: dict[str, None] | None = None
        """Those whom rows may name in the column `user`; None where it is not read."""

    def read_users(self, known: Collection[str], where: str) -> None:
        """Read the column `user`, and refuse rows of users that are not known from the file `where`."""
        self.users, self._known_from = dict.fromkeys(known), where
        self.declared.append("user")

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""
        reads = (self.views, self.columns, self.probabilities, self.lists, self.optional)
        return settings_hash(super().fingerprint, *reads, *(() if self.users is None else (tuple(self.users),)))

    def encode(self, record: ImagePair) -> dict[str, Any] | None:
        """Check the pictures and numbers of one pair; None where the two pictures are equal.

        Raises:
            RowError: for a row whose pictures or numbers cannot be read.
        """
        row: dict[str, Any] = {name: self._kept(self._name(record, name), name) for name in self.views}
        row |= read_numbers(record, self.columns, self.probabilities) | self._optional(record)
        for name, columns in self.lists.items():
            names = read_texts(record, name)
            row[name] = [self._kept(each, f"{name}[{n}]") for n, each in enumerate(names)]
            row |= read_number_lists(record, columns, name, len(names))
        if row["chosen"]["sha256"] == row["rejected"]["sha256"]:
            self.counts.by_truncation[Truncation.IDENTICAL] += 1
            return None
        if self.users is not None:
            row["user"] = self._user(record)
        return {
            **row,
            "prompt": self._text(record),
            "target": record.preference,
            "weight": record.weight,
            "length": 1,
        }

    def _optional(self, record: ImagePair) -> dict[str, float]:
        here = [name for name in self.optional if record.extra.get(name) is not None]
        read_numbers(record, here, here)  # a number that is no probability is refused
        return read_optional(record, self.optional)

    def _user(self, record: ImagePair) -> str:
        assert self.users is not None
        if (name := read_user(record)) not in self.users:
            expected = f"one of the {len(self.users)} users of {self._known_from}"
            raise RowError(
                "unknown user", "user", shown(name), expected=expected, fix="Add the user there, or remove the row."
            )
        return name

    def _name(self, record: ImagePair, name: str) -> str:
        if name in ("chosen", "rejected"):
            return str(getattr(record, name))
        value = record.extra.get(name)
        if not isinstance(value, str) or not value.strip():
            raise missing_column(record, name, "the name of a picture in every row")
        return value.strip()

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Read the pictures of a batch: `prompts` [B], each view [B, C, ...], lists one after the other [N, C, ...].

        `count.NAME` of [B] says how many pictures of a list each pair has. Beside them there are targets, weights and
        columns of [B], numbers of lists [B, K], the `index` of each row [B], and `users` [B] where they are read.
        """
        numbers = [*self.columns, *self.optional, *(name for some in self.lists.values() for name in some)]
        return {
            "prompts": [row["prompt"] for row in rows],
            **{name: self._stacked([row[name] for row in rows]) for name in self.views},
            **{name: self._stacked([each for row in rows for each in row[name]]) for name in self.lists},
            **{COUNT + name: torch.tensor([len(row[name]) for row in rows]) for name in self.lists},
            **number_tensors(rows, numbers),
            **pair_tensors(rows),
            **({} if self.users is None else {"users": [row["user"] for row in rows]}),
            "index": indices(rows),
        }


class CaptionEncoder(ImageEncoder):
    """Pictures with captions.

    Args:
        shape: shape of the pictures.
        columns: columns of the rows that hold a number.
    """

    def __init__(self, shape: Sequence[int], columns: Sequence[str] = ()) -> None:
        super().__init__(shape)
        self.columns = tuple(columns)
        self.declared = list(columns)

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""
        return settings_hash(super().fingerprint, self.columns)

    def encode(self, record: CaptionedImage) -> dict[str, Any] | None:
        """Check the picture and the numbers of one row. Raises RowError for what cannot be read."""
        picture, numbers = self._kept(record.image, "image"), read_numbers(record, self.columns)
        return {"image": picture, "prompt": self._text(record), "length": 1, **numbers}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Read the pictures of a batch: `prompts` [B], `images` [B, C, ...], columns, and the `index` of each row."""
        return {
            "prompts": [row["prompt"] for row in rows],
            "images": self._stacked([row["image"] for row in rows]),
            **number_tensors(rows, self.columns),
            "index": indices(rows),
        }


class ChosenEncoder(CaptionEncoder):
    """Pictures with captions as chosen ones of pairs, whose rejected pictures a model makes."""

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Read the pictures of a batch as `chosen` [B, C, ...], with sure labels and weights of 1 [B]."""
        found = super().collate(rows)
        found["chosen"] = found.pop("images")
        return {**found, "targets": torch.ones(len(rows)), "weights": torch.ones(len(rows))}


class ImagePromptEncoder(ImageEncoder):
    """Prompts alone."""

    def encode(self, record: ImagePrompt) -> dict[str, Any] | None:
        """Take the text of a prompt. Raises RowError for a conversation of several turns."""
        return {"prompt": self._text(record), "length": 1}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate `prompts` [B] texts, and the `index` of each row [B]."""
        return {"prompts": [row["prompt"] for row in rows], "index": indices(rows)}


class PictureQuestionEncoder(ImageEncoder):
    """Pictures of any size, and the answer to a question about them."""

    def __init__(self) -> None:
        super().__init__(None)

    def encode(self, record: PictureQuestion) -> dict[str, Any] | None:
        """Check the pictures of one row. Raises RowError for what cannot be read."""
        pictures = []
        for number, name in enumerate(record.images):
            field = f"images[{number}]"
            if self._files.read(name, field).ndim > 3:
                fix = "Name single frames, or remove the row."
                raise RowError("a clip", field, shown(name), expected="a picture, which the model reads", fix=fix)
            pictures.append(self._kept(name, field))
        return {"images": pictures, "prompt": self._text(record), "answer": record.answer, "length": 1}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Read the pictures of a batch: `pictures`, a list for each of B rows, `prompts` and `answers` [B], `index`."""
        return {
            "pictures": [[self._pixels(each) for each in row["images"]] for row in rows],
            "prompts": [row["prompt"] for row in rows],
            "answers": [row["answer"] for row in rows],
            "index": indices(rows),
        }


def image_hash(rows: Any) -> str:
    """Hash the pictures of encoded rows, a `datasets.Dataset`, in their order."""
    names = [name for name, value in rows[0].items() if _is_kept(value[0] if isinstance(value, list) else value)]
    return settings_hash([[_hashes(each) for each in rows[name]] for name in sorted(names)])


def _is_kept(value: Any) -> bool:
    return isinstance(value, dict) and "sha256" in value


def _hashes(kept: Any) -> Any:
    return [each["sha256"] for each in kept] if isinstance(kept, list) else kept["sha256"]
