"""Settings of noise in training."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prl.diffusion.base import NoiseProcess, Reduction

TimeDistribution = Literal["uniform", "logit_normal"]


@dataclass(frozen=True)
class NoiseDraws:
    """How pictures are made noisy in training, and how errors are summed up. Raises ValueError out of range."""

    times: TimeDistribution = "uniform"
    """Distribution of times: uniform, or the logistic function of a standard normal number (2403.03206, 3.1), as a
    share of the way from clean to noise."""
    share_time: bool = True
    """Whether all pictures of a row have one time."""
    share_noise: bool = True
    """Whether all pictures of a row have one noise."""
    reduction: Reduction = "mean"
    """Whether an error is the mean over the dimensions of a latent, as in released code, or their sum, as in papers. A
    factor of the number of dimensions lies between them, also in what a beta means."""
    prompt_dropout: float = 0.0
    """Share of rows in which the prompt is left out, which guidance needs."""
    inversion_steps: int = 0
    """Where above 0, the noise of a picture is what the model itself finds by going to the time in so many steps
    (ReNoise inversion; SmPO, 2506.02698); two calls of the network each."""

    def __post_init__(self) -> None:
        if self.times not in ("uniform", "logit_normal"):
            raise ValueError(f"noise.times is {self.times!r}; expected uniform or logit_normal")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"noise.reduction is {self.reduction!r}; expected mean or sum")
        if not 0 <= self.prompt_dropout < 1:
            raise ValueError(f"noise.prompt_dropout is {self.prompt_dropout}; expected at least 0 and below 1")
        if self.inversion_steps < 0:
            raise ValueError(f"noise.inversion_steps is {self.inversion_steps}; expected 0 or more")

    def share_of(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers [N] into shares of the way from clean to noise [N]."""
        return shares_of(self.times, uniform)

    def time_of(self, process: NoiseProcess, uniform: Tensor) -> Tensor:
        """Turn uniform numbers [N] into times of a process [N]."""
        return process.quantile(self.share_of(uniform))


@dataclass(frozen=True)
class NoisyPairs:
    """What a reward of noisy latents reads in training (Flow-NRG, 2501.13918). Raises ValueError out of range."""

    pipeline: str
    """Folder or hub id of the pipeline of diffusers that the reward is to guide: its autoencoder and its process."""
    times: TimeDistribution = "uniform"
    """Distribution of times, as that of `NoiseDraws`; both pictures of a pair have one time and one noise."""
    clip: list[int] | None = None
    """Frames, height and width of the clips of a pipeline of video; null for pictures."""

    def __post_init__(self) -> None:
        if self.times not in ("uniform", "logit_normal"):
            raise ValueError(f"noisy.times is {self.times!r}; expected uniform or logit_normal")


def shares_of(distribution: TimeDistribution, uniform: Tensor) -> Tensor:
    """Turn uniform numbers [N] into shares of the way from clean to noise [N] with a distribution."""
    if distribution == "uniform":
        return uniform
    return torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7)).sigmoid()
