"""What the policy learns from its experience: a choice that is one class in the configuration."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from prl.types import Experience


class PolicyOutputs(NamedTuple):
    """What the policy being trained says of the responses of a micro-batch."""

    logprobs: Tensor
    """[B, T] log-probability of each token, with gradient; zero outside the mask."""
    entropy: Tensor | None
    """[B, T] entropy of each token's distribution, nats, with gradient; None unless the objective needs it."""


class LossOutput(NamedTuple):
    """A loss and what to report about it."""

    loss: Tensor
    """Scalar, with gradient."""
    stats: dict[str, Tensor]
    """Scalars without gradient, logged as `policy/<name>`: maxima where the name ends in `_max`, otherwise sums over
    tokens with the weights that were given, which add up to means over the minibatch."""


class PolicyObjective(ABC):
    """A loss of the policy. Its constructor's arguments are its settings; the KL penalty stays outside.

    An objective with a state has `state_dict` and `load_state_dict`; the run finds and saves it.
    """

    needs_entropy: bool = False
    """Whether it reads the entropy of the policy's distributions, which costs a pass over the vocabulary."""

    @abstractmethod
    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Compute the loss of a micro-batch.

        Args:
            new: of the policy as it is now.
            experience: B responses with their constants: old and reference log-probabilities, advantages.
            weights: [B, T] weight of each token. They sum to one over the minibatch of all processes, and are zero
                outside the mask, so that a weighted sum is the mean.
        """
