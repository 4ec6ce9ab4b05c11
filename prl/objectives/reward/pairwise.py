"""The loss of the generative pairwise judge (DESIGN 1.1): pure functions of verdict margins."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def check_smoothing(label_smoothing: float) -> None:
    """Raise ValueError where targets would lose their side or leave [0, 1]."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing is {label_smoothing}; expected at least 0 and below 1, where all labels are 1/2"
        )


def smooth(targets: Tensor, label_smoothing: float) -> Tensor:
    """Targets pulled towards 1/2: (1 - s) t + s / 2."""
    return targets * (1 - label_smoothing) + label_smoothing / 2


def verdict_loss(margin: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of one reading: BCE(sigma(margin), target) per pair, [N] -> [N].

    Args:
        margin: [N] log-odds that the response shown first is better.
        target: [N] probability that it is.
    """
    return F.binary_cross_entropy_with_logits(margin, target, reduction="none")


def pairwise_loss(margin_wl: Tensor, margin_lw: Tensor, target: Tensor) -> Tensor:
    """1/2 [BCE(sigma(z(w, l)), t) + BCE(sigma(z(l, w)), 1 - t)] per pair: [N] -> [N] (Pairwise-RL, 2504.04950).

    Args:
        margin_wl: [N] z(w, l), chosen shown first.
        margin_lw: [N] z(l, w), rejected shown first.
        target: [N] probability that chosen is better.
    """
    return (verdict_loss(margin_wl, target) + verdict_loss(margin_lw, 1 - target)) / 2


ConsistencyForm = Literal["probability", "log_odds"]


def consistency_loss(margin_wl: Tensor, margin_lw: Tensor, form: ConsistencyForm = "probability") -> Tensor:
    """What the order changes, per pair: [N] -> [N]; zero when it does not matter.

    `probability` is (p(w, l) + p(l, w) - 1)^2, at most 1 and flat where both readings are sure; `log_odds` is
    (z(w, l) + z(l, w))^2, which pulls as hard on sure pairs as on unsure ones.
    """
    if form == "log_odds":
        return (margin_wl + margin_lw).square()
    return (torch.sigmoid(margin_wl) + torch.sigmoid(margin_lw) - 1).square()


def verdict_language_loss(logits: Tensor, verdict_ids: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the verdict token over the whole vocabulary per reading: [N, V] -> [N].

    Equals `verdict_loss` plus -log of the mass on the two verdict tokens together, which has no target to it: soft
    labels and ties mean the same in both.

    Args:
        logits: [N, V] logits of the verdict position.
        verdict_ids: [2] token ids of "first is better" and "second is better".
        target: [N] probability that the response shown first is better.
    """
    logprobs = logits.float().log_softmax(-1)[:, verdict_ids]
    return -(target * logprobs[:, 0] + (1 - target) * logprobs[:, 1])
