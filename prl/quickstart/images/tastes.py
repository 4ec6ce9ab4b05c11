"""Users with tastes: what each likes beside a picture that is right for its prompt."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from prl.quickstart.images.gold import background, figure_share


class Taste(Protocol):
    """What a user likes."""

    def score(self, images: Tensor) -> Tensor:
        """Score images [N, 3, H, H] in [-1, 1], higher for what the user likes better: [N], float64."""


@dataclass(frozen=True)
class LikesLarge:
    """Likes large figures."""

    def score(self, images: Tensor) -> Tensor:
        """Compute the share of the picture that the figure covers: [N]."""
        return figure_share(images)


@dataclass(frozen=True)
class LikesSmall:
    """Likes small figures."""

    def score(self, images: Tensor) -> Tensor:
        """Compute minus the share of the picture that the figure covers: [N]."""
        return -figure_share(images)


@dataclass(frozen=True)
class LikesBright:
    """Likes bright grounds."""

    def score(self, images: Tensor) -> Tensor:
        """Compute the brightness of the ground, from -1 to 1: [N]."""
        return background(images)


@dataclass(frozen=True)
class Mixed:
    """Likes two things, one more than the other or as much."""

    first: Taste
    second: Taste
    weights: tuple[float, float]

    def score(self, images: Tensor) -> Tensor:
        """Compute the weighted sum of two tastes: [N]."""
        return self.weights[0] * self.first.score(images) + self.weights[1] * self.second.score(images)


TASTES: dict[str, Taste] = {
    "large": LikesLarge(),
    "small": LikesSmall(),
    "bright": LikesBright(),
    # Brightness varies about seven times as much as the share of the figure does.
    "small_and_bright": Mixed(LikesSmall(), LikesBright(), (7.0, 1.0)),
}
"""Users by name."""


def taste_of(name: str) -> Taste:
    """Return a user's taste.

    Raises:
        ValueError: for an unknown user.
    """
    if name not in TASTES:
        raise ValueError(f"user is {name!r}; expected one of {', '.join(TASTES)}")
    return TASTES[name]
