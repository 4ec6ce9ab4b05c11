"""Guidance as a setting of samplers, `sampling.guide`: the formulas are those of `guidance.py`."""

import math
from collections.abc import Sequence
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
        with torch.inference_mode(False):  # weights that are moved in it can have no gradient pass through them
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

        self._network: Any = None

    def network_for(self, denoiser: Denoiser) -> Any:
        """Return the worse network, read at its first use, in the type of the model's.

        Raises:
            ValueError: for a pipeline of another kind, process or size than the model's.
        """
        if self._network is None:
            dtype: Any = str(denoiser.dtype).removeprefix("torch.")
            own, network = load_denoiser(ModelSource(path=self.path, dtype=dtype), clip=getattr(denoiser, "clip", None))
            for what, here, there in (
                ("a pipeline", type(denoiser).__name__, type(own).__name__),
                ("a process", _kind_of(denoiser), _kind_of(own)),
                ("latents", denoiser.latent_shape, own.latent_shape),
            ):
                if here != there:
                    raise ValueError(
                        f"NegativeGuide.path, {self.path}, has {what} of {there}, and the model {here}; choose one "
                        "that is like the model"
                    )
            self._network = freeze(network)
        return self._network

    def around(self, predict: Predict, denoiser: Denoiser, prompts: Sequence[str], device: torch.device) -> Predict:
        """Put guidance around predictions. Raises ValueError for a network that does not fit."""
        texts = prompts if self.prompted else [""] * len(prompts)
        network = self.network_for(denoiser).to(device)
        return NegativeGuided(predict, Prompted(denoiser, network, denoiser.encode(texts, device)), self.weight)


def _kind_of(denoiser: Denoiser) -> str:
    """Say what a network of a denoiser predicts."""
    return f"{type(denoiser.process).__name__} {getattr(denoiser.process, 'prediction', 'velocity')}"


def _checked(guide: Guide, weight: float) -> float:
    if not math.isfinite(weight):
        raise ValueError(f"{type(guide).__name__}.weight is {weight}; expected a finite number")
    return weight
