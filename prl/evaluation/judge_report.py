"""What is said of a judge on labelled pairs (DESIGN 1.1)."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from prl.types import Verdict


def judge_metrics(verdict: Verdict, targets: Tensor) -> dict[str, float]:
    """Accuracy, calibration and order effects of verdicts on pairs (chosen, rejected).

    Args:
        verdict: N pairs with chosen as `a` and rejected as `b`.
        targets: [N] probability that chosen is better.

    Returns:
        accuracy (both orders averaged; a tie of probabilities counts one half), accuracy_chosen_first and
        accuracy_rejected_first (each order alone), nll (nats, debiased probability), brier, ece (15 bins),
        flip_rate, order_gap, first_position_rate, margin.
        Pairs whose target is 1/2 have no winner and stay out of the accuracies and ece.
    """
    prob, targets = verdict.win_prob.double().cpu(), targets.double().cpu()
    first, second = verdict.margin_ab.double().cpu(), verdict.margin_ba.double().cpu()
    decided = targets != 0.5
    sign = torch.where(targets > 0.5, 1.0, -1.0)[decided].double()

    def accuracy(logit: Tensor) -> float:
        right = (logit[decided] * sign).sign()
        return float(((right + 1) / 2).mean()) if len(right) else float("nan")

    log_win = torch.nn.functional.logsigmoid(verdict.win_logit.double().cpu())
    log_lose = torch.nn.functional.logsigmoid(-verdict.win_logit.double().cpu())
    # Calibration is asked of "the response shown as a wins": with chosen always there, every label would be 1 and a
    # judge that always says 1 would look calibrated. Every second pair is therefore read the other way round.
    flip = torch.arange(len(prob)) % 2 == 1
    stated = torch.where(flip, 1 - prob, prob)
    happened = torch.where(flip, targets < 0.5, targets > 0.5).long()
    return {
        "accuracy": accuracy(verdict.win_logit.double().cpu()),
        "accuracy_chosen_first": accuracy(first),
        "accuracy_rejected_first": accuracy(-second),
        "nll": float(-(targets * log_win + (1 - targets) * log_lose).mean()),
        "brier": float((prob - targets).square().mean()),
        "ece": float(binary_calibration_error(stated[decided], happened[decided], n_bins=15, norm="l1")),
        "flip_rate": float(verdict.flipped.float().mean()),
        "order_gap": float(verdict.order_gap.float().mean()),
        "first_position_rate": float((torch.cat([first, second]).sign() + 1).mean() / 2),
        "margin": float(((2 * targets - 1) * verdict.win_logit.double().cpu()).mean()),
    }
