"""Accuracy and calibration of a judge that reasons, by the tokens that it spends."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prl.evaluation.judge.calibration import calibration_error
from prl.verdict import Verdict, has_winner, mean_margin, wins

BINS = 4
"""Bins of pairs by the length of their thoughts, of about as many pairs each."""

Estimate = Callable[[Tensor, Tensor], dict[str, Any] | None]
"""(one number per pair [N], where it counts [N] bool) -> mean with its interval; None without any."""


def reasons_report(
    margins: Tensor, tokens: Tensor, unfinished: Tensor, targets: Tensor, temperature: float, estimate: Estimate
) -> dict[str, Any]:
    """Compute what is reached with fewer thoughts, and with shorter and longer ones, as JSON values.

    Args:
        margins: [N, 2, k] margin of each thought, for the readings (a, b) and (b, a), where a is the better response.
        tokens: [N, 2, k] tokens of each thought.
        unfinished: [N, 2, k] bool, True where a thought was closed at its limit.
        targets: [N] probability that a is better.
        temperature: divides averaged margins.
        estimate: measures a mean over pairs.

    Returns:
        tokens: of both readings of a pair, over all thoughts; unfinished: share of the thoughts; samples: figures with
        the first 1 to k thoughts of each reading; thought_tokens: figures of the pairs by the mean length of their
        thoughts. Figures are tokens, accuracy and nll as means, and ece.
    """
    margins, tokens, targets = margins.double().cpu(), tokens.double().cpu(), targets.double().cpu()
    everywhere = torch.ones_like(targets, dtype=torch.bool)

    def figures(number: int, where: Tensor) -> dict[str, Any]:
        both = mean_margin(margins[..., :number]) / temperature
        logit = Verdict(both[:, 0], both[:, 1]).win_logit
        decided, nll = where & has_winner(targets), torch.nn.functional.binary_cross_entropy_with_logits
        return {
            "tokens": estimate(tokens[..., :number].sum((1, 2)), where),
            "accuracy": estimate(wins(logit), decided),
            "nll": estimate(nll(logit, targets, reduction="none"), where),
            "ece": calibration_error(logit.sigmoid()[decided], targets[decided]) if decided.any() else None,
        }

    samples = margins.shape[-1]
    length = tokens.mean((1, 2))
    return {
        "tokens": estimate(tokens.sum((1, 2)), everywhere),
        "unfinished": float(unfinished.double().mean()),
        "samples": {str(number): figures(number, everywhere) for number in range(1, samples + 1)},
        "thought_tokens": {
            f"{length[where].min():g} to {length[where].max():g}": figures(samples, where) for where in _bins(length)
        },
    }


def _bins(length: Tensor) -> list[Tensor]:
    """Split pairs at the quantiles of a length; equal lengths stay together: up to BINS masks [N]."""
    edges = torch.quantile(length, torch.linspace(0, 1, BINS + 1, dtype=length.dtype)[1:-1]).unique()
    place = torch.bucketize(length, edges)
    return [place == number for number in place.unique()]
