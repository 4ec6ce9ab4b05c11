"""Guidance of a sampler without training the generator: by the gradient of a reward, or away from a worse network."""

from collections.abc import Callable

import torch
from torch import Tensor

from prl.diffusion.base import as_rows
from prl.diffusion.rectified_flow import RectifiedFlow
from prl.diffusion.sampling import Predict

NoisyReward = Callable[[Tensor, Tensor], Tensor]
"""Rewards [N] of noisy latents [N, ...] at times [N], differentiable in the latents."""


class RewardGuided:
    """The velocity v - w t / (1 - t) grad r(x_t, t) in place of v: Flow-NRG (2501.13918, section 4.3).

    It samples from the flow's distribution times exp(w r) where r is the exact reward of noisy latents, the logarithm
    of the mean of exp(r) over the pictures that they may come from. Several rewards are added before, with weights that
    are chosen anew for each use. At t = 1, where the factor has no bound, the velocity stays as it is.

    Args:
        process: the flow.
        predict: predicts velocities, such as `Prompted`.
        reward: reward of noisy latents.
        weight: w.

    Raises:
        ValueError: for a process that is no flow.
    """

    def __init__(self, process: RectifiedFlow, predict: Predict, reward: NoisyReward, weight: float = 1.0) -> None:
        if not isinstance(process, RectifiedFlow):
            raise ValueError(f"RewardGuided guides flows, and this process is a {type(process).__name__}")
        self.process, self.predict, self.reward, self.weight = process, predict, reward, weight

    def __call__(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Predict velocities at times [N]."""
        velocity = self.predict(noisy, time)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = noisy.detach().clone().requires_grad_()  # copies: tensors of inference mode have no gradients
            (gradient,) = torch.autograd.grad(self.reward(leaf, time.clone()).sum(), leaf)
        left, now = self.process.scales(time)
        factor = torch.where(left > 0, self.weight * now / left.where(left > 0, torch.ones_like(left)), 0.0)
        return velocity - as_rows(factor, noisy) * gradient.to(velocity.dtype)


class NegativeGuided:
    """(w + 1) prediction of the model - w prediction of a worse one: guidance by a negative network (2505.11777).

    Self-NPO trains the worse network on what the model itself makes carelessly; classifier-free guidance has the model
    without a prompt in its place. With equal networks and prompts nothing changes.

    Args:
        predict: the model with its prompts.
        negative: the worse network, with the same prompts or none.
        weight: w.
    """

    def __init__(self, predict: Predict, negative: Predict, weight: float) -> None:
        self.predict, self.negative, self.weight = predict, negative, weight

    def __call__(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Predict for noisy latents at times [N]."""
        return (self.weight + 1) * self.predict(noisy, time) - self.weight * self.negative(noisy, time)


def negative_weights(
    base: dict[str, Tensor], negative: dict[str, Tensor], positive: dict[str, Tensor], merge: float
) -> dict[str, Tensor]:
    """Merge what made a network worse with what made another better: negative + (1 - merge) (positive - base).

    That is the rule of the authors' code; their paper, second-hand, has base + alpha (positive - base) + beta (negative
    - base).

    Args:
        base: weights that both were trained from, by name.
        negative: weights of the worse network.
        positive: weights of the better one.
        merge: 1 leaves the worse network as it is.
    """
    return {name: weight + (1 - merge) * (positive[name] - base[name]) for name, weight in negative.items()}
