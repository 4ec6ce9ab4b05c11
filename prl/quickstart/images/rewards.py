"""Rewards of the worlds of pictures and clips, for training and for what a validation measures."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from prl.data.images import as_tensor
from prl.diffusion.rewards.adversarial import read_references
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


class LikenessToReferences(ImageReward):
    """Likeness to reference pictures of a subject, from 0 to 1, wherever in the picture the subject is.

    It is the mean over the references of (c + 1) / 2, by which RPO maps cosines (2407.12164). The authors compare what
    an encoder makes of pictures; here c is the cosine of the pixels themselves, less the mean of each channel, where
    one picture is moved over the other, around its edges, so that both are most alike. Colours and textures differ in
    it more than shapes of one size do.

    Args:
        references: .jsonl file of pictures of the subject, rows of prompt and image.
    """

    references: Tensor

    def __init__(self, references: str) -> None:
        super().__init__()
        files, names = read_references(references)
        pictures = [as_tensor(files.read(name, "image")) for of_prompt in names.values() for name in of_prompt]
        self.register_buffer("references", torch.stack(pictures), persistent=False)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Compare pictures with all references: [N]."""
        return ((best_cosine(images.float(), self.references) + 1) / 2).mean(1).clamp(0, 1)


def best_cosine(images: Tensor, others: Tensor) -> Tensor:
    """Compute the cosine of every two pictures [N, C, H, W] and [R, C, H, W] at the best shift of one: [N, R]."""
    ours, theirs = (each - each.mean((-2, -1), keepdim=True) for each in (images, others))
    spectra = torch.fft.rfft2(ours)[:, None] * torch.fft.rfft2(theirs).conj()
    shifted = torch.fft.irfft2(spectra, s=images.shape[-2:]).sum(2)
    norms = ours.flatten(1).norm(dim=1)[:, None] * theirs.flatten(1).norm(dim=1)
    return shifted.amax((-2, -1)) / norms.clamp(min=1e-8)
