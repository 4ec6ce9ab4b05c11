"""A trained reward model of pictures as a reward."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prl.diffusion.rewards.base import ImageReward
from prl.diffusion.rewards.scorers import load_scorer
from prl.models.loading import freeze


class LearnedImageReward(ImageReward):
    """Scores of a reward model that `ImageRewardModule` wrote, or of a plain CLIP such as PickScore.

    Args:
        path: its folder or hub id.
        weights: weight of each head by its name; all count 1 when null. Chosen anew for each use, without training.

    Raises:
        ValueError: for a weight of a head that there is not.
    """

    def __init__(self, path: str, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.path, self.weights = path, weights
        self.scorer = freeze(load_scorer(path))
        names = self.scorer.names
        if unknown := sorted((weights or {}).keys() - set(names)):  # type: ignore[arg-type]
            raise ValueError(
                f"LearnedImageReward.weights names {unknown[0]!r}; the heads of {path} are {', '.join(names) or 'none'}"  # type: ignore[arg-type]
            )
        chosen = [1.0 if weights is None else weights.get(name, 0.0) for name in names] or [1.0]  # type: ignore[union-attr]
        self.register_buffer("head_weights", torch.tensor(chosen), persistent=False)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures: [N]."""
        return self.scorer(images, prompts).float() @ self.head_weights
