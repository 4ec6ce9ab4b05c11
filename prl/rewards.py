"""From a verdict to the score of a response: pure functions, no model calls."""

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
