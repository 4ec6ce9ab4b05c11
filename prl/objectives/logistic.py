"""The logistic loss on a margin, which most objectives on pairs end in, and what doubt in labels does to it."""

import math

import torch.nn.functional as F
from torch import Tensor


def soft_logistic(margin: Tensor, target: Tensor) -> Tensor:
    """-t log sigma(m) - (1 - t) log sigma(-m) per pair: [B] -> [B].

    Args:
        margin: [B] log-odds that the first response is better.
        target: [B] probability that it is; 1 gives -log sigma of the margin.
    """
    return F.binary_cross_entropy_with_logits(margin, target.to(margin.dtype), reduction="none")


def smooth(target: Tensor, rate: float) -> Tensor:
    """Take labels to be wrong at a rate e: (1 - e) t + e (1 - t), which pulls them towards 1/2: [B] -> [B].

    With the logistic loss that is conservative DPO: (1 - e) (-log sigma(m)) + e (-log sigma(-m)). It is the label
    smoothing of two classes, (1 - s) t + s / 2, with s = 2 e.
    """
    return target * (1 - 2 * rate) + rate


def check_smoothing(owner: str, rate: float) -> None:
    """Refuse a share of wrong labels that is none, or at which labels say nothing.

    Args:
        owner: whose setting it is, for the error.
        rate: `label_smoothing`.

    Raises:
        ValueError: naming the setting and its range.
    """
    if not 0 <= rate < 0.5:
        raise ValueError(f"{owner}.label_smoothing is {rate}; expected at least 0 and below 0.5, a coin toss")


def expected(target: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """t right + (1 - t) wrong per pair, which is two pairs of the weights t and 1 - t: [B] -> [B].

    Args:
        target: [B] probability that the label is right.
        right: [B] what the pair gives as it is labelled.
        wrong: [B] what it gives with its responses swapped.
    """
    share = target.to(right.dtype)
    return share * right + (1 - share) * wrong


def check_beta(owner: str, beta: float) -> None:
    """Refuse a scale of margins at which a loss has no direction or no value.

    Args:
        owner: whose setting it is, for the error.
        beta: `beta`.

    Raises:
        ValueError: naming the setting and its range.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"{owner}.beta is {beta}; expected a finite number above 0")
