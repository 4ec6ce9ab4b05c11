"""The lambda-harmonic reward of RPO for subjects: likeness to reference pictures, and to the prompt."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prl.diffusion.rewards.base import ImageReward


def harmonic(images: Tensor, texts: Tensor, weight: float) -> Tensor:
    """Compute 1 / (lambda / s_I + (1 - lambda) / s_T), elementwise; 0 where a score that counts is 0.

    Args:
        images: scores s_I from 0 to 1, likeness to reference pictures.
        texts: scores s_T from 0 to 1, likeness to the prompt.
        weight: lambda, from 0 to 1; 1 is s_I alone, 0 s_T alone.
    """
    counted = [(share, score) for share, score in ((weight, images), (1 - weight, texts)) if share > 0]
    total = torch.stack([share / score.clamp(min=0) for share, score in counted]).sum(0)
    return torch.where(total.isinf(), torch.zeros_like(total), 1 / total)


class HarmonicReward(ImageReward):
    """The weighted harmonic mean of two rewards from 0 to 1 (RPO for subjects, 2407.12164).

    It is near the lower of the two, so a picture that copies the references and forgets the prompt, or the other way
    round, earns little. The authors label pairs with lambda 0 and stop training by the mean at lambda 0.5 (README; 0.3
    in the code's defaults); `EarlyStopping` of Lightning on `val/reward` does that.

    Args:
        image: likeness to reference pictures, from 0 to 1.
        text: likeness to the prompt, from 0 to 1.
        weight: lambda, the weight of the first.

    Raises:
        ValueError: for a weight outside of 0 to 1, or when a reward leaves that range.
    """

    def __init__(self, image: ImageReward, text: ImageReward, weight: float = 0.5) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"HarmonicReward.weight is {weight}; expected a number from 0 to 1")
        self.image, self.text, self.weight = image, text, weight

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures: [N]."""
        scores = [reward.score(images, prompts).float() for reward in (self.image, self.text)]
        for name, each in zip(("image", "text"), scores, strict=True):
            if bool(((each < 0) | (each > 1)).any()):
                worst = float(each[(each < 0) | (each > 1)][0])
                raise ValueError(f"HarmonicReward.{name} gave {worst:.4g}; expected rewards from 0 to 1")
        return harmonic(scores[0], scores[1], self.weight)
