"""Socket of policy objectives: losses of a policy on its experience."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from prl.types import Experience


class PolicyOutputs(NamedTuple):
    """Outputs of the policy in training on the responses of a micro-batch."""

    logprobs: Tensor
    """[B, T] log-probability of each token, with gradient; zero outside the mask."""
    entropy: Tensor | None
    """[B, T] entropy of each token's distribution, nats, with gradient; None unless the objective needs it."""


class LossOutput(NamedTuple):
    """A loss and its statistics."""

    loss: Tensor
    """Scalar, with gradient."""
    stats: dict[str, Tensor]
    """Scalars without gradient, logged as `policy/<name>`: maxima where the name ends in `_max`, otherwise weighted
    sums over tokens, which add up to means over the minibatch."""


class PolicyObjective(ABC):
    """A loss of the policy, without the KL penalty. The arguments of the constructor are the settings.

    An objective with a state has `state_dict` and `load_state_dict`; the run finds and saves the state.
    """

    needs_entropy: bool = False
    """Whether the loss reads the entropy of the policy's distributions, which costs a pass over the vocabulary."""
    reads_advantages: bool = True
    """Whether the loss reads advantages, through which alone a KL in the reward acts."""
    reads_reference: bool = True
    """Whether the loss reads log-probabilities of the reference. Where nothing does, a policy of pictures has none; a
    policy of texts has one for its logs."""
    min_per_prompt: int = 1
    """Fewest responses per prompt that the loss needs. Where it needs several, it compares them, and a micro-batch has
    all responses of its prompts."""

    @abstractmethod
    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Compute the loss of a micro-batch.

        Args:
            new: outputs of the current policy.
            experience: B responses with their constants: old and reference log-probabilities, advantages.
            weights: [B, T] weight of each token. They sum to one over the minibatch of all processes, and are zero
                outside the mask, so that a weighted sum is the mean.
        """
