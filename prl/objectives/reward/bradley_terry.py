"""The loss of the scalar baseline: Bradley-Terry on the difference of two rewards."""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor, target: Tensor) -> Tensor:
    """BCE(sigma(r(x, y_w) - r(x, y_l)), t) per pair: [N] -> [N]. Source: Ouyang et al. 2022 (2203.02155), eq. 1.

    Args:
        chosen_rewards: [N] scalar rewards of the chosen responses.
        rejected_rewards: [N] of the rejected ones.
        target: [N] probability that chosen is better; 1 gives -log sigma of the difference.
    """
    return F.binary_cross_entropy_with_logits(chosen_rewards - rejected_rewards, target, reduction="none")
