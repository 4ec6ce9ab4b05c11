"""SLiC: a hinge loss, which lets a pair be once its margin is large enough."""

from torch import Tensor, relu

from prl.objectives.logistic import check_beta, expected
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses


class SLiC(PreferenceObjective):
    """max(0, 1 - beta (s_w - s_l)), s the log-ratio of a response to the reference (2309.06657).

    That is `hinge-norm` of the paper (RSO). Without a reference s is the summed log-probability, and the loss `hinge`
    of the paper: SLiC-HF (2305.10425) with a margin of 1 / beta and without its supervised term. A soft label t takes t
    of the loss and 1 - t of that with the responses swapped.

    Args:
        beta: scale of the margin, gamma in the paper, which has 0.05; a pair is let be from s_w - s_l = 1 / beta.
        with_reference: whether s is measured from a reference; otherwise none is loaded.

    Raises:
        ValueError: for a beta that is not above 0.
    """

    def __init__(self, beta: float = 0.05, with_reference: bool = True) -> None:
        check_beta("SLiC", beta)
        self.beta, self.needs_reference = beta, with_reference

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = self.reward(batch.chosen) - self.reward(batch.rejected)
        return expected(batch.target, relu(1 - margin), relu(1 + margin))

    def reward(self, responses: ScoredResponses) -> Tensor:
        """Compute the implicit reward of each response, beta s: [N]."""
        return self.beta * (responses.log_ratio() if self.needs_reference else responses.logprob())
