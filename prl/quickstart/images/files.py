"""Pictures on disk: arrays of bytes in .npy files, and references to their rows."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prl.system.outputs import writing


def to_uint8(images: Tensor | np.ndarray) -> np.ndarray:
    """Turn images [..., 3, H, W] in [-1, 1] into bytes [..., H, W, 3], rounded; anything outside is cut off.

    Raises:
        ValueError: for another shape, or numbers that are not finite.
    """
    values = images.detach().cpu().double().numpy() if isinstance(images, Tensor) else np.asarray(images, np.float64)
    if values.ndim < 3 or values.shape[-3] != 3:
        raise ValueError(f"images have shape {values.shape}; expected [..., 3, H, W]")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} numbers of the images are not finite; expected [-1, 1]")
    return np.moveaxis(np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8), -3, -1)


def from_uint8(array: np.ndarray) -> Tensor:
    """Turn bytes [..., H, W, 3] into images [..., 3, H, W], float32 in [-1, 1].

    Raises:
        ValueError: for another shape or type.
    """
    _check_bytes(array)
    return torch.from_numpy(np.moveaxis(array, -1, -3).astype(np.float32) / 127.5 - 1)


def write_arrays(folder: Path, name: str, images: np.ndarray) -> str:
    """Write bytes [N, H, W, 3], or [N, F, H, W, 3] of clips, into `folder`/`name`.npy, whole or not at all.

    Equal arrays give equal files.

    Returns:
        Name of the file.

    Raises:
        ValueError: for another shape or type.
    """
    _check_bytes(images)
    if images.ndim not in (4, 5):
        raise ValueError(f"images have shape {images.shape}; expected [N, H, W, 3] or [N, F, H, W, 3]")
    with writing(folder / f"{name}.npy") as partial, partial.open("wb") as file:
        np.save(file, np.ascontiguousarray(images), allow_pickle=False)
    return f"{name}.npy"


def reference(name: str, index: int) -> str:
    """Name a picture, or a clip, of the file that `write_arrays` writes under a name: ``name.npy#12``.

    Raises:
        ValueError: for an index below 0.
    """
    if index < 0:
        raise ValueError(f"index is {index}; expected 0 or more")
    return f"{name}.npy#{index}"


def _check_bytes(array: np.ndarray) -> None:
    if array.dtype != np.uint8:
        raise ValueError(f"images are {array.dtype}; expected uint8, as of to_uint8")
    if array.ndim < 3 or array.shape[-1] != 3:
        raise ValueError(f"images have shape {array.shape}; expected [..., H, W, 3]")
