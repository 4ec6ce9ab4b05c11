"""From a verdict to the score of a response: pure functions, no model calls."""

import torch
from torch import Tensor

from prl.config import MissingEOS, RewardMapping
from prl.types import Verdict


def sequence_scores(verdict: Verdict, mapping: RewardMapping = "probability", *, max_log_odds: float = 5.0) -> Tensor:
    """The reward of each response against its anchor, the response being `a` of the verdict: [B].

    probability: debiased win probability in [0, 1]; mean_probability: the average of probabilities instead of
    log-odds; centered: probability - 1/2, zero at parity with the anchor; log_odds: the debiased margin, clipped to
    +-max_log_odds.

    Raises:
        ValueError: for an unknown mapping.
    """
    if mapping == "probability":
        return verdict.win_prob
    if mapping == "mean_probability":
        return verdict.mean_prob
    if mapping == "centered":
        return verdict.win_prob - 0.5
    if mapping == "log_odds":
        return verdict.win_logit.clamp(-max_log_odds, max_log_odds)
    raise ValueError(f"unknown reward mapping {mapping!r}; known: probability, mean_probability, centered, log_odds")


def mean_per_row(values: Tensor, row_of: Tensor, num_rows: int) -> Tensor:
    """Mean of the values about each row, those that are NaN left out: [N] -> [B]; NaN where none is left.

    Args:
        values: [N].
        row_of: [N] which row each value is about.
        num_rows: B.
    """
    known = ~values.isnan()
    totals = values.new_zeros(num_rows).index_add(0, row_of[known], values[known])
    counts = row_of[known].bincount(minlength=num_rows)
    return torch.where(counts > 0, totals / counts.clamp(min=1), torch.nan)


def overlong(lengths: Tensor, max_length: int, buffer: int, penalty: float) -> Tensor:
    """What a response near the length limit loses: [B] lengths in tokens -> [B].

    Nothing up to max_length - buffer, then rising to `penalty` at max_length. Source: DAPO (2503.14476), eq. 13.
    """
    return penalty * ((lengths - (max_length - buffer)) / buffer).clamp(0, 1)


def apply_missing_eos(scores: Tensor, finished: Tensor, policy: MissingEOS, value: float) -> Tensor:
    """Scores [B] of responses that hit the length limit: kept, replaced by `value`, or lowered by `value`.

    Raises:
        ValueError: for an unknown policy.
    """
    if policy == "keep":
        return scores
    if policy == "replace":
        return scores.masked_fill(~finished, value)
    if policy == "penalise":
        return scores - value * (~finished).to(scores.dtype)
    raise ValueError(f"unknown missing_eos {policy!r}; known: keep, replace, penalise")
