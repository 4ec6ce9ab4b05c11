"""Reward models of pictures by their folders, whatever their network is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prl.diffusion.rewards.clip_scorer import load_clip_scorer
from prl.diffusion.rewards.conv_scorer import is_conv_scorer, load_conv_scorer


def load_scorer(path: str, heads: Sequence[str] | None = None) -> Any:
    """Read a reward model of pictures: `ConvScorer`, or `ClipScorer` for any CLIP of transformers.

    Args:
        path: its folder, or a hub id of a CLIP.
        heads: names of new heads, in place of those of the folder; those of the folder when None.

    Raises:
        ModelNotFoundError: for a folder that is not there, or holds neither.
    """
    folder = Path(path).expanduser()
    return load_conv_scorer(folder, heads) if is_conv_scorer(folder) else load_clip_scorer(path, heads)
