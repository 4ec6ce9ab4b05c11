"""Handwritten digits of 8 x 8 as a bed for small models of images, with two rewards that read pixels only."""

import torch
from torch import Tensor


def digits() -> tuple[Tensor, Tensor]:
    """Load scikit-learn's digits: images [1797, 1, 8, 8], float32 in [-1, 1] with bright ink, and labels [1797].

    Raises:
        ImportError: where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("the digits are those of scikit-learn; install it: pip install scikit-learn") from None
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1  # ink is counted from 0 to 16
    return images, torch.from_numpy(found.target).long()


def ink(images: Tensor) -> Tensor:
    """Compute the mean brightness: [N], of images [N, C, H, W]."""
    return images.flatten(1).mean(1)


def symmetry(images: Tensor) -> Tensor:
    """Compute minus the mean difference of images [N, C, H, W] from their mirror images, left for right: [N]."""
    return -(images - images.flip(-1)).abs().flatten(1).mean(1)
