"""Guidance as a setting of samplers, `sampling.guide`: the formulas are those of `guidance.py`."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from prl.config import ModelSource
from prl.diffusion.denoisers import Denoiser, load_denoiser
from prl.diffusion.guidance import NegativeGuided, RewardGuided
from prl.diffusion.rewards.noisy_latents import NoisyLatentReward
from prl.diffusion.sampling import Guide, Predict, Prompted
from prl.models.loading import freeze


class RewardGuide(Guide):
    """Guides a flow by the gradient of a reward of noisy latents: Flow-NRG (2501.13918).

    Args:
        path: folder of the reward model, as of `NoisyLatentReward`.
        weight: w of `RewardGuided`.
        weights: weight of each head by its name; all count 1 when null.

    Raises:
        ValueError: for a folder without such a model, or a weight that is no number.
    """

    def __init__(self, path: str, weight: float = 1.0, weights: dict[str, float] | None = None) -> None:
        super().__init__(path)
        self.weight = _checked(self, weight)
        self.reward = NoisyLatentReward(path, weights)

    def around(self, predict: Predict, denoiser: Denoiser, prompts: Sequence[str], device: torch.device) -> Predict:
        """Put guidance around predictions. Raises ValueError for a process that is no flow."""
        process: Any = denoiser.process
        reward = self.reward.to(device).for_prompts(process, prompts)
        return RewardGuided(process, predict, reward, self.weight)


class NegativeGuide(Guide):
    """Guides away from a worse network, such as that of `SelfNPOModule` (2505.11777).

    Args:
        path: folder or hub id of its pipeline; its network reads the same latents and prompts as the model.
        weight: w of `NegativeGuided`.
        prompted: whether it reads the prompt; without, as classifier-free guidance has the model itself.

    Raises:
        ValueError: for a weight that is no number.
    """

    def __init__(self, path: str, weight: float = 1.0, prompted: bool = False) -> None:
        super().__init__(path)
        self.weight, self.prompted = _checked(self, weight), prompted

    @cached_property
    def network(self) -> Any:
        """The worse network, read at its first use."""
        return freeze(load_denoiser(ModelSource(path=self.path))[1])

    def around(self, predict: Predict, denoiser: Denoiser, prompts: Sequence[str], device: torch.device) -> Predict:
        """Put guidance around predictions."""
        texts = prompts if self.prompted else [""] * len(prompts)
        negative = Prompted(denoiser, self.network.to(device), denoiser.encode(texts, device))
        return NegativeGuided(predict, negative, self.weight)


def _checked(guide: Guide, weight: float) -> float:
    if not math.isfinite(weight):
        raise ValueError(f"{type(guide).__name__}.weight is {weight}; expected a finite number")
    return weight
