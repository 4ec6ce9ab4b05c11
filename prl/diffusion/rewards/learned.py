"""A trained reward model of pictures as a reward."""

from collections.abc import Mapping, Sequence

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
        ValueError: for a weight of a head that there is not, or a model of noisy latents.
    """

    head_weights: Tensor

    def __init__(self, path: str, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.path, self.weights = path, weights
        self.scorer = freeze(load_scorer(path))
        names: Sequence[str] = self.scorer.names  # type: ignore[assignment]
        found = weights_of_heads(type(self).__name__, path, names, weights)
        self.register_buffer("head_weights", found, persistent=False)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures: [N]."""
        return self.scorer(images, prompts).float() @ self.head_weights


def weights_of_heads(owner: str, path: str, names: Sequence[str], weights: Mapping[str, float] | None) -> Tensor:
    """Return the weight of each head in the order of a model's outputs: [heads], one for a model without heads.

    Args:
        owner: class whose setting `weights` is read, for the error.
        path: folder of the model, for the error.
        names: names of the heads.
        weights: weight by name, 0 where a name is missing; all count 1 when None.

    Raises:
        ValueError: for a weight of a head that there is not.
    """
    if unknown := sorted((weights or {}).keys() - set(names)):
        raise ValueError(f"{owner}.weights names {unknown[0]!r}; the heads of {path} are {', '.join(names) or 'none'}")
    return torch.tensor([1.0 if weights is None else weights.get(name, 0.0) for name in names] or [1.0])
