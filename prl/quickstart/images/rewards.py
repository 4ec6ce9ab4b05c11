"""Rewards of the world of pictures, for training and for what a validation measures."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from prl.diffusion.rewards.base import ImageReward
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
