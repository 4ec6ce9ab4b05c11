"""Reward models of pictures by their folders, whatever their network is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prl.diffusion.rewards.clip_scorer import load_clip_scorer
from prl.diffusion.rewards.conv_scorer import is_conv_scorer, load_conv_scorer


def load_scorer(path: str, heads: Sequence[str] | None = None, *, noisy: bool = False) -> Any:
    """Read a reward model of pictures: `ConvScorer`, or `ClipScorer` for any CLIP of transformers.

    Args:
        path: its folder, or a hub id of a CLIP.
        heads: names of new heads, in place of those of the folder; those of the folder when None.
        noisy: whether it is to read noisy latents and their time, as a `ConvScorer` can.

    Raises:
        ModelNotFoundError: for a folder that is not there, or holds neither.
        ValueError: for a CLIP that is to read noise, or a model of noisy latents that is not.
    """
    folder = Path(path).expanduser()
    if not is_conv_scorer(folder):
        if noisy:
            raise ValueError(
                f"{path} holds no ConvScorer, and CLIP reads no noisy latents: it has no input for their time; give "
                "the folder of a ConvScorer, or leave noisy out"
            )
        return load_clip_scorer(path, heads)
    scorer = load_conv_scorer(folder, heads, time_input=noisy)
    if scorer.time_input and not noisy:
        raise ValueError(
            f"the reward model in {path} reads noisy latents with their time, not pictures: guide with it by "
            "NoisyLatentReward, or train it further with the setting noisy"
        )
    return scorer
