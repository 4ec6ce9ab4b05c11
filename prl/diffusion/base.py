"""Socket of noise processes: what DDPM and rectified flow have in common."""

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]
"""Over the dimensions of an image: papers write sums, released code takes means. A factor of the number of dimensions
lies between them, in log-probabilities, errors, and in what a beta or a clip range means."""


def reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """Reduce [N, ...] over the dimensions of each row: [N]."""
    flat = values.flatten(1)
    return flat.mean(1) if reduction == "mean" else flat.sum(1)


def as_rows(numbers: Tensor, images: Tensor) -> Tensor:
    """Give [N] numbers the shape that broadcasts over images [N, ...]."""
    return numbers.to(images.dtype).view(-1, *[1] * (images.dim() - 1))


class GaussianStep(NamedTuple):
    """A step of a sampler as a policy: x' ~ N(mean, std² I)."""

    mean: Tensor
    """[N, ...]."""
    std: Tensor
    """[N], one for all dimensions of a row; 0 where the step is deterministic."""

    def sample(self, noise: Tensor) -> Tensor:
        """Take the step with standard normal noise [N, ...]."""
        return self.mean + as_rows(self.std, self.mean) * noise

    def log_prob(self, sample: Tensor, reduction: Reduction) -> Tensor:
        """Compute log N(sample; mean, std² I): [N], summed over dimensions or as the mean of a dimension.

        Raises:
            ValueError: for a deterministic step, which has no density.
        """
        if bool((self.std <= 0).any()):
            raise ValueError("a step without noise has no log-probability; leave it out of training, or add noise")
        std = as_rows(self.std, self.mean)
        each = -0.5 * ((sample - self.mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
        return reduced(each, reduction)

    def kl(self, other: "GaussianStep", reduction: Reduction) -> Tensor:
        """Compute KL(self ‖ other) of two steps of one standard deviation: |mean - mean'|² / (2 std²), [N]."""
        return reduced((self.mean - other.mean).square(), reduction) / (2 * self.std.to(self.mean.dtype).square())


class NoisyLatents(NamedTuple):
    """Noisy latents, and what a network is to predict of them."""

    noisy: Tensor
    """[N, ...]."""
    time: Tensor
    """[N] times of the process."""
    target: Tensor
    """[N, ...]."""

    def errors(self, prediction: Tensor, reduction: Reduction) -> Tensor:
        """Compute the squared error of a prediction: [N]."""
        return reduced((prediction - self.target).square(), reduction)

    def followed_by(self, others: "NoisyLatents") -> "NoisyLatents":
        """Put others behind these."""
        return NoisyLatents(*(torch.cat(both) for both in zip(self, others, strict=True)))


class NoiseProcess(ABC):
    """Turns clean images x_0 into noisy ones, x_t = a_t x_0 + s_t eps, and reads a network's predictions of them.

    Times are tensors [N], so that the rows of a batch may be at different ones. The signs and ranges of times are the
    process's own; `times` lists those of a sampler. All formulas but `scales`, `target`, `split` and `step` follow from
    the two scales, in the same way for both processes.
    """

    @abstractmethod
    def scales(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return a_t and s_t of each row: [N] each."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Compute what the network is to predict: [N, ...]."""

    @abstractmethod
    def split(self, noisy: Tensor, prediction: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Compute x_0 and eps that a prediction stands for: [N, ...] each."""

    @abstractmethod
    def step(self, noisy: Tensor, prediction: Tensor, time: Tensor, to: Tensor) -> GaussianStep:
        """Compute the sampler's step from `time` to an earlier, less noisy time `to`, with the noise of its setting."""

    @abstractmethod
    def times(self, steps: int) -> Tensor:
        """List the times of a sampler from noise to clean: [steps + 1]."""

    @abstractmethod
    def quantile(self, share: Tensor) -> Tensor:
        """Return the times at shares from 0 to 1 of the way from clean to noise, to draw times in training: [N]."""

    @abstractmethod
    def share(self, time: Tensor) -> Tensor:
        """Return the share of the way from clean (0) to noise (1) at which times lie: [N] float64."""

    @abstractmethod
    def later(self, time: Tensor, share: Tensor) -> Tensor:
        """Return the times at shares in [0, 1) of the way from `time` to noise, never earlier than it: [N]."""

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Compute x_t = a_t x_0 + s_t eps."""
        signal, spread = self.scales(time)
        return as_rows(signal, clean) * clean + as_rows(spread, clean) * noise

    def noisy(self, clean: Tensor, noise: Tensor, time: Tensor) -> NoisyLatents:
        """Make clean latents noisy."""
        return NoisyLatents(self.corrupt(clean, noise, time).to(clean.dtype), time, self.target(clean, noise, time))

    def move(self, noisy: Tensor, prediction: Tensor, time: Tensor, to: Tensor) -> Tensor:
        """Go on to another time without noise: x' = a' x_0 + s' eps, with x_0 and eps of the prediction.

        To earlier times this is DDIM with eta 0 (2010.02502) and the Euler step of a flow; to later times it is their
        inversion, with the prediction at `time` taken for the one at `to`.
        """
        return self.corrupt(*self.split(noisy, prediction, time), to)

    def renoise(self, noisy: Tensor, noise: Tensor, time: Tensor, to: Tensor) -> Tensor:
        """Add noise up to a later time: x' = (a'/a) x + sqrt(s'² - s² a'²/a²) noise, distributed as x_t' given x_0.

        Raises:
            ValueError: for a time that is not later.
        """
        (signal, spread), (to_signal, to_spread) = self.scales(time), self.scales(to)
        ratio = to_signal / signal
        left = to_spread.square() - (spread * ratio).square()
        if bool((left < 0).any()):
            raise ValueError(f"renoise goes to later times only: from {time.tolist()} to {to.tolist()}")
        return as_rows(ratio, noisy) * noisy + as_rows(left.sqrt(), noisy) * noise

    def errors(self, prediction: Tensor, clean: Tensor, noise: Tensor, time: Tensor, reduction: Reduction) -> Tensor:
        """Compute the squared error of a prediction: [N]."""
        return reduced((prediction - self.target(clean, noise, time)).square(), reduction)


def check_steps(steps: int) -> None:
    """Refuse a number of steps below 1. Raises ValueError."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
