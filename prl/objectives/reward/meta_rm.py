"""A look ahead along unlabelled responses before each step of a reward model (MetaRM)."""

import math

import torch
from torch import Tensor

from prl.objectives.reward.base import PairBatch, RewardObjective, WrappedObjective
from prl.objectives.reward.bradley_terry import BradleyTerry


class MetaRM(WrappedObjective):
    """Take the gradient of an objective where the model tells new responses further apart (2401.06080, 2405.00438).

    On k unlabelled responses to a prompt of a shifted distribution J = 2 / k^2 sum_{i<j} sigma(|r_i - r_j|). Before
    each gradient theta' = theta + eta grad J, the gradient of the objective is taken at theta', and the step goes from
    theta: first order, without second derivatives. It prefers what lowers the loss and raises J alike, since to first
    order in eta L(theta') = L(theta) + eta <grad L, grad J>. With eta = 0 it is the plain step to the last bit.

    The responses are those that the policy in training gives now, as `prl pairs --rule BestOfN --lists` writes them.
    J is averaged over the prompts of a look ahead. J and the two steps agree with a review of the authors' paper on
    MetaRM; their eta and the size of a meta-batch are not known, so eta and `prompts` are this library's choices.

    Args:
        objective: that of the pairs, another one of reward models; `BradleyTerry` with its defaults when null.
        eta: step size of the look ahead, in plain gradient ascent, whatever the optimizer.
        prompts: unlabelled prompts of each look ahead, with all their responses.

    Raises:
        ValueError: for an eta below 0, no prompts, or an objective that looks ahead itself or gives no reward.
    """

    def __init__(self, objective: RewardObjective | None = None, eta: float = 1e-3, prompts: int = 4) -> None:
        super().__init__(objective or BradleyTerry())
        if not 0 <= eta < math.inf:
            raise ValueError(f"MetaRM.eta is {eta}; expected a finite number of at least 0")
        if prompts < 1:
            raise ValueError(f"MetaRM.prompts is {prompts}; expected at least 1")
        if self.look_ahead or self.operator is not None:
            what = "gives embeddings and no rewards" if self.operator is not None else "looks ahead itself"
            raise ValueError(f"MetaRM.objective is {type(self.objective).__name__}, which {what}; choose another one")
        if eta:
            self.look_ahead, self.unlabelled_prompts = eta, prompts

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        return self.objective.loss(batch)

    def ascended(self, rewards: Tensor) -> Tensor:
        """Compute J, how far the rewards of k responses to one prompt are apart: [k] -> scalar."""
        count = len(rewards)
        first, second = torch.triu_indices(count, count, offset=1, device=rewards.device)
        return 2 / count**2 * (rewards[first] - rewards[second]).abs().sigmoid().sum()
