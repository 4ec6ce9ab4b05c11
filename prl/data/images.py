"""Pictures of files and arrays, as bytes of pixels and as numbers from -1 to 1."""

import hashlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prl.data.rows.row_errors import RowError, shown

ARRAY = re.compile(r"(?P<file>.+\.npy)#(?P<row>[0-9]+)")
"""A picture of an array of several, such as `pictures.npy#12`."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_MODES = ("RGB", "L", "P", "CMYK", "YCbCr", "1")
"""Modes of pillow that turn into RGB without loss of what is seen; others have transparency or more bits."""
_KEPT = 16
"""Arrays that stay open at a time."""


class ImageFiles:
    """Reads pictures that rows name, relative to the folder of the rows.

    A name is an image file, a .npy file of one picture, or `FILE.npy#N` for row N of an array of pictures, counted from
    0. Arrays are uint8: [H, W, C] a picture, [F, H, W, C] a clip of F frames.

    Args:
        folder: folder that relative names begin in.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._arrays: OrderedDict[Path, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open arrays out: a copy for a loader's worker would have all their pixels."""
        return {"folder": self.folder, "_arrays": OrderedDict()}

    def read(self, name: str, field: str) -> np.ndarray:
        """Read the pixels of a picture [H, W, C] or clip [F, H, W, C], uint8.

        Args:
            name: name of the picture in a row.
            field: column that it stands in, for errors.

        Raises:
            RowError: for a file that is missing, damaged or of another kind, or an array of another type or shape.
        """
        if found := ARRAY.fullmatch(name):
            rows = self._array(self.folder / found["file"], name, field)
            number = int(found["row"])
            if number >= len(rows):
                raise RowError(
                    *("no such picture", field, shown(name)),
                    expected=f"a row from 0 to {len(rows) - 1}, which {found['file']} has",
                    fix="Correct the number after #, or write the array again.",
                )
            return _checked(np.asarray(rows[number]), name, field)
        path = self.folder / name
        if path.suffix.lower() == ".npy":
            return _checked(np.asarray(self._array(path, name, field)), name, field)
        return _opened(path, name, field)

    def _array(self, path: Path, name: str, field: str) -> np.ndarray:
        if path in self._arrays:
            self._arrays.move_to_end(path)
            return self._arrays[path]
        _check_there(path, name, field)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(name, field, error) from None
        if array.dtype != np.uint8 or array.ndim not in (3, 4, 5):
            raise RowError(
                *("no pictures", field, f"an array of {array.dtype} with shape {list(array.shape)}"),
                expected="uint8 of [H, W, C], or of [N, H, W, C] or [N, F, H, W, C] with a row number after #",
                fix="Write the pixels as whole numbers from 0 to 255, channels last.",
            )
        self._arrays[path] = array
        if len(self._arrays) > _KEPT:
            self._arrays.popitem(last=False)
        return array


def names_picture(text: str) -> bool:
    """Return whether a text reads as the name of a picture."""
    return ARRAY.fullmatch(text) is not None or text.lower().endswith((*SUFFIXES, ".npy"))


def _opened(path: Path, name: str, field: str) -> np.ndarray:
    """Decode an image file as RGB."""
    if path.suffix.lower() not in SUFFIXES:
        expected = f"the name of a file ending in {', '.join(SUFFIXES)}, or FILE.npy#N"
        is_address = "://" in name
        fix = "Download the picture, and name its file." if is_address else "Correct the name, or convert the picture."
        raise RowError("no picture", field, shown(name), expected=expected, fix=fix)
    _check_there(path, name, field)
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ValueError(
            f"{path} is an image file, and reading one needs pillow: pip install 'pairwise-rl[images]'"
        ) from None
    try:
        with Image.open(path) as image:
            if image.mode not in _MODES or getattr(image, "n_frames", 1) > 1:
                what = f"{shown(name)} of mode {image.mode}, {getattr(image, 'n_frames', 1)} frames"
                expected = "one picture without transparency, 8 bits a channel"
                raise RowError("another kind of picture", field, what, expected=expected, fix="Convert it to RGB.")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except RowError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _damaged(name, field, error) from None


def _check_there(path: Path, name: str, field: str) -> None:
    if not path.is_file():
        expected = f"a file in {path.parent}; names are relative to the folder of the rows"
        raise RowError("no such file", field, shown(name), expected=expected, fix="Correct the name or remove the row.")


def _damaged(name: str, field: str, error: Exception) -> RowError:
    found = f"{shown(name)}, which cannot be read: {error}"
    return RowError("damaged picture", field, found, expected="a whole file", fix="Restore it or remove the row.")


def _checked(pixels: np.ndarray, name: str, field: str) -> np.ndarray:
    if pixels.ndim not in (3, 4) or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise RowError(
            *("no picture", field, f"{shown(name)} of shape {list(pixels.shape)}"),
            expected="[H, W, C] or [F, H, W, C] with 1 or 3 channels; a row of a longer array is FILE.npy#N",
            fix="Correct the name or write the array again.",
        )
    return pixels


def pixel_hash(pixels: np.ndarray) -> str:
    """Hash pixels and their shape."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:32]


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Turn pixels [H, W, C] into [C, H, W], clips [F, H, W, C] into [C, F, H, W], float32 from -1 to 1."""
    numbers = torch.from_numpy(np.array(pixels)).float() / 127.5 - 1
    return numbers.movedim(-1, 0)
