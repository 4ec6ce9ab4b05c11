"""BRAIn: the policy's weights of several samples of a prompt are drawn to those of a reward-conditioned posterior."""

import math
from typing import Literal

from torch import Tensor

from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class BRAIn(PreferenceObjective):
    """KL(a || b) over the responses of a list (2402.02479), a the posterior's weights and b the policy's.

    A prompt has n samples of a proposal q, the text list `responses` with the numbers `rewards`. The weights are
    a = softmax(log p - log q + reward / temperature), with p the reference as prior, and b = softmax(log pi - log q),
    over the n. The gradient is - sum (a - b) grad log pi: weights sum to 0, and none is left where pi is the posterior.
    Of the pair itself nothing is learnt, nor of its label; it is there for the logs, and for validation. The logged
    reward is the log-ratio to the reference.

    The gradient is that of the authors' code. Softmax of rewards follows from a Bradley-Terry reward; the paper's
    temperature and n were read in summaries alone.

    Args:
        temperature: of the rewards; the lower, the more only the best sample counts.
        proposal: who sampled: the reference, so that log p - log q is 0, or another policy, whose log-probabilities of
            the responses are in a column `proposal_logprobs`, nats, summed over tokens.

    Raises:
        ValueError: for a temperature that is not above 0, or an unknown proposal.
    """

    lists = {"responses": ("rewards",)}

    def __init__(self, temperature: float = 1.0, proposal: Literal["reference", "column"] = "reference") -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"BRAIn.temperature is {temperature}; expected a finite number above 0")
        if proposal not in ("reference", "column"):
            raise ValueError(f"BRAIn.proposal is {proposal!r}; expected reference or column")
        self.temperature, self.proposal = temperature, proposal
        if proposal == "column":
            self.lists = {"responses": ("rewards", "proposal_logprobs")}

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        responses, present = batch.views["responses"], batch.present("responses")
        posterior, policy = batch.columns["rewards"] / self.temperature, responses.log_ratio().view(present.shape)
        if self.proposal == "column":
            prior = (responses.logprob() - responses.log_ratio()).detach().view(present.shape)
            lead = prior - batch.columns["proposal_logprobs"]
            posterior, policy = posterior + lead, policy + lead
        log_a, log_b = (each.masked_fill(~present, -math.inf).log_softmax(1) for each in (posterior, policy))
        return (log_a.exp() * (log_a - log_b).masked_fill(~present, 0)).sum(1)
