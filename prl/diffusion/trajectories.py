"""Trajectories of a sampler as the actions of a policy: each noisy step is a Gaussian with a log-probability."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prl.diffusion.base import GaussianStep, NoiseProcess, Reduction
from prl.diffusion.ddpm import DDPM
from prl.diffusion.rectified_flow import RectifiedFlow

Predict = Callable[[Tensor, Tensor], Tensor]
"""What a network predicts for noisy latents [N, ...] at times [N]."""


@dataclass(frozen=True)
class TrajectorySampling:
    """How a policy makes pictures in training. Raises ValueError if a field makes no sense."""

    steps: int = 10
    """Steps of the sampler."""
    per_prompt: int = 8
    """Pictures for each prompt of a batch."""
    guidance: float = 1.0
    """Scale of classifier-free guidance, with which the policy samples and learns; 1 is none."""
    kind: Literal["sde", "cps"] = "sde"
    """Noisy steps of a flow: Flow-GRPO's, or those that keep the noise of each time exactly. A DDPM has DDIM's."""
    noise: float = 0.7
    """How noisy they are: the level of a flow (a in Flow-GRPO), or eta of DDIM."""
    first: int = 0
    """First noisy step, counted from 0."""
    noisy: int | None = None
    """Number of noisy steps, which alone are learnt; all but the last of the sampler when null, whose noise would stay
    in the picture. Other steps add no noise."""
    size: int | None = None
    """Height and width, in pixels, of the pictures that the policy learns from; the model's own when null. Half of it
    costs about a quarter, and what is learnt shows at the full size too (PaCo-GRPO, 2512.04784); validations make full
    pictures. The reward has to read the smaller ones."""
    share_start: bool = True
    """Whether all pictures of a prompt begin with the same noise."""
    reduction: Reduction = "mean"
    """Whether the log-probability of a step is the mean over the dimensions of a latent, as in released code, or their
    sum, as in papers. A factor of the number of dimensions lies between them, also in what a clip range means."""

    def __post_init__(self) -> None:
        for name, lowest in (("steps", 2), ("per_prompt", 1), ("first", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"sampling.{name} is {getattr(self, name)}; expected at least {lowest}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"sampling.size is {self.size}; expected null or a number of pixels")
        if not self.guidance >= 0:
            raise ValueError(f"sampling.guidance is {self.guidance}; expected 0 or more")
        if not self.noise > 0:
            raise ValueError(f"sampling.noise is {self.noise}; expected a number above 0, or there is nothing to learn")
        if self.kind not in ("sde", "cps"):
            raise ValueError(f"sampling.kind is {self.kind!r}; expected sde or cps")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"sampling.reduction is {self.reduction!r}; expected mean or sum")
        last = self.steps - 1
        if self.noisy is not None and not 1 <= self.noisy <= last - self.first:
            raise ValueError(
                f"sampling.noisy is {self.noisy} from step {self.first} on; expected 1 to {last - self.first}, so that "
                "the last step of the sampler adds no noise"
            )
        if self.noisy is None and self.first >= last:
            raise ValueError(f"sampling.first is {self.first}; expected 0 to {last - 1}")

    @property
    def learnt(self) -> range:
        """Numbers of the noisy steps."""
        return range(self.first, self.steps - 1 if self.noisy is None else self.first + self.noisy)

    def process_of(self, process: NoiseProcess) -> NoiseProcess:
        """Return the process with noisy steps."""
        if isinstance(process, RectifiedFlow):
            second = float(process.times(self.steps)[1])
            return RectifiedFlow(self.kind, self.noise, first=1 - second, shift=process.shift)
        assert isinstance(process, DDPM)
        return process.with_eta(self.noise)


@dataclass(frozen=True)
class StepKL:
    """KL of the noisy steps to those of the reference, in the loss. Raises ValueError if a field makes no sense."""

    coef: float = 0.0
    """Weight; 0 reads no reference."""
    form: Literal["exact", "released"] = "exact"
    """exact is the KL of two Gaussian steps, as in the paper of Flow-GRPO (2505.05470). released is that times the
    length of the step, as in its code, which leaves it out of the variance."""

    def __post_init__(self) -> None:
        if not self.coef >= 0:
            raise ValueError(f"kl.coef is {self.coef}; expected 0 or more")
        if self.form not in ("exact", "released"):
            raise ValueError(f"kl.form is {self.form!r}; expected exact or released")


@dataclass(frozen=True)
class Trajectories:
    """N trajectories of K noisy steps, and the latents that they end in."""

    states: Tensor
    """[N, K + 1, ...] latents before each noisy step, and after the last of them."""
    times: Tensor
    """[K + 1] their times."""
    latents: Tensor
    """[N, ...] clean latents at the end."""

    def __len__(self) -> int:
        return len(self.latents)

    def flat(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """List the noisy steps of some rows: latents before and after each [n K, ...], and the times of both [n K]."""
        before, after = self.states[rows, :-1], self.states[rows, 1:]
        now, then = (times.expand(len(rows), -1).flatten() for times in (self.times[:-1], self.times[1:]))
        return before.flatten(0, 1), after.flatten(0, 1), now, then


@torch.no_grad()
def sample_trajectories(
    process: NoiseProcess, predict: Predict, start: Tensor, noise: Tensor, settings: TrajectorySampling
) -> Trajectories:
    """Sample pictures, and keep their noisy steps.

    Args:
        process: process with noisy steps, of `TrajectorySampling.process_of`.
        predict: the policy with its prompts.
        start: [N, ...] noise to begin with.
        noise: [N, K, ...] standard normal numbers of the noisy steps.
        settings: settings of the sampler.
    """
    times = process.times(settings.steps).to(start.device)
    latents, states, learnt = start, [], settings.learnt
    for number in range(settings.steps):
        now, then = (times[each].expand(len(start)) for each in (number, number + 1))
        if number in learnt or number == learnt.stop:
            states.append(latents)
        predicted = predict(latents, now)
        if number in learnt:
            latents = process.step(latents, predicted, now, then).sample(noise[:, number - learnt.start])
        else:
            latents = process.move(latents, predicted, now, then)
        latents = latents.to(start.dtype)
    return Trajectories(torch.stack(states, 1), times[learnt.start : learnt.stop + 1], latents)


def read_steps(process: NoiseProcess, predict: Predict, of: Trajectories, rows: Tensor) -> tuple[GaussianStep, Tensor]:
    """Compute the noisy steps of some rows as a network takes them now, in one pass: n K steps, and where they led.

    Args:
        process: process with noisy steps.
        predict: the network with the prompts of these rows, each K times in a row.
        of: the trajectories.
        rows: [n] numbers of the rows.
    """
    before, after, now, then = of.flat(rows)
    return process.step(before, predict(before, now), now, then), after
