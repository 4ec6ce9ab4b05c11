"""LD-DPO: DPO in which tokens beyond the shared length of a pair count less."""

import torch
from torch import Tensor

from prl.objectives.logistic import check_beta, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses


class LDDPO(PreferenceObjective):
    """-log sigma(beta (r_w - r_l)), r the log-ratio with tokens beyond the shorter response weighted by alpha.

    r = sum_t w_t (log pi - log pi_ref), w_t = 1 up to the length of the pair's shorter response, and alpha behind it
    (2409.06411). Only the longer response is changed. The implicit reward that is logged is beta times the
    whole log-ratio, since it is a response's own.

    Args:
        beta: how strongly the policy is held to the reference.
        alpha: weight of the tail: 1 is DPO, 0 leaves it out. The paper fits it to each model, values that were not
            read here; 0.5 is where TRL's documentation says to begin.

    Raises:
        ValueError: for a beta that is not above 0, or an alpha outside of 0 to 1.
    """

    def __init__(self, beta: float = 0.1, alpha: float = 0.5) -> None:
        check_beta("LDDPO", beta)
        if not 0 <= alpha <= 1:
            raise ValueError(f"LDDPO.alpha is {alpha}; expected a number from 0 to 1")
        self.beta, self.alpha = beta, alpha

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        shared = torch.minimum(batch.chosen.lengths, batch.rejected.lengths)
        chosen, rejected = (self._log_ratio(side, shared) for side in (batch.chosen, batch.rejected))
        return soft_logistic(self.beta * (chosen - rejected), batch.target)

    def _log_ratio(self, responses: ScoredResponses, shared: Tensor) -> Tensor:
        places = torch.arange(responses.mask.shape[1], device=shared.device)
        weights = torch.ones_like(responses.logprobs).masked_fill(places >= shared[:, None], self.alpha)
        return responses.log_ratio(weights)
