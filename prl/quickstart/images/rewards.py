"""Rewards of the worlds of pictures and clips, for training and for what a validation measures."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from prl.diffusion.rewards.base import ImageReward
from prl.quickstart.images.clips import clip_scores
from prl.quickstart.images.gold import attributes, gold


class GoldReward(ImageReward):
    """The world's own check of a picture against its prompt, from 0 to 1.

    Args:
        of: all that the prompt says, or one attribute of it.
    """

    def __init__(self, of: Literal["all", "shape", "colour", "place", "clarity"] = "all") -> None:
        super().__init__()
        if of not in ("all", "shape", "colour", "place", "clarity"):
            raise ValueError(f"GoldReward.of is {of!r}; expected all, shape, colour, place or clarity")
        self.of = of

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Check pictures: [N]."""
        found = gold(images, list(prompts)) if self.of == "all" else attributes(images, list(prompts))[self.of]
        return found.to(images.device).float()


class GoldClipReward(ImageReward):
    """The world's own check of a clip against its prompt, from 0 to 1.

    Args:
        of: the mean of all three sides, or one side of `clip_scores`.
    """

    def __init__(self, of: Literal["all", "visual", "motion", "text"] = "all") -> None:
        super().__init__()
        if of not in ("all", "visual", "motion", "text"):
            raise ValueError(f"GoldClipReward.of is {of!r}; expected all, visual, motion or text")
        self.of = of

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Check clips [N, C, F, H, W]: [N]."""
        sides = clip_scores(images.movedim(1, 2), list(prompts))
        found = torch.stack(list(sides.values())).mean(0) if self.of == "all" else sides[self.of]
        return found.to(images.device).float()
