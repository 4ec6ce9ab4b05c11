"""The logistic loss on a margin, which most preference objectives end in, and what labels do to it."""

import torch.nn.functional as F
from torch import Tensor


def soft_logistic(margin: Tensor, target: Tensor) -> Tensor:
    """-t log sigma(m) - (1 - t) log sigma(-m) per pair: [B] -> [B].

    Args:
        margin: [B] log-odds that chosen is better.
        target: [B] probability that it is; 1 gives -log sigma of the margin.
    """
    return F.binary_cross_entropy_with_logits(margin, target.to(margin.dtype), reduction="none")


def flip_some(target: Tensor, rate: float) -> Tensor:
    """Take labels to be wrong at a rate e: (1 - e) t + e (1 - t), [B] -> [B].

    With the logistic loss that is conservative DPO: (1 - e) (-log sigma(m)) + e (-log sigma(-m)).
    """
    return (1 - rate) * target + rate * (1 - target)
