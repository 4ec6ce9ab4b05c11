"""SRPO: a policy that answers and revises, both fitted to pairs so that who sampled the pairs does not matter."""

from torch import Tensor

from prl.objectives.logistic import check_beta
from prl.objectives.preference.base import REVISION_PROMPT, PreferenceBatch, PreferenceObjective


class SRPO(PreferenceObjective):
    """(1 - alpha) A + alpha B, squares of how far a pair is from the optimum of a game (2406.01660).

    A first policy answers, a second one revises the answer that it sees, and both are this policy, with two prompts:
    `rho+(a|b)` is the log-ratio to the reference of response a behind a prompt that quotes b, rho(a) that of a
    plain answer. With t the label, the probability that chosen w beats rejected l, the optimum has
    A = (beta (rho+(w|l) + rho(w) - rho+(l|w) - rho(l)) - (2 t - 1))^2 and
    B = (beta (rho+(w|l) - rho+(l|l)) - (t - 1/2))^2 + (beta (rho+(w|w) - rho+(l|w)) - (t - 1/2))^2 at 0.

    Both conditions were derived from the game and tried on one. That the paper's loss mixes them so was read in
    summaries: which side alpha weighs, the scale of A, and the paper's values are not verified.

    Args:
        beta: how strongly both are held to the reference; the default is of this library.
        alpha: weight of the revisions alone, from 0 to 1; the default is of this library.
        revision_prompt: last turn of a prompt for a revision, with {prompt} and {response}.

    Raises:
        ValueError: for a beta that is not above 0, or an alpha outside of 0 to 1.
    """

    revisions = {
        "chosen_given_rejected": ("chosen", "rejected"),
        "rejected_given_rejected": ("rejected", "rejected"),
        "chosen_given_chosen": ("chosen", "chosen"),
        "rejected_given_chosen": ("rejected", "chosen"),
    }

    def __init__(self, beta: float = 0.1, alpha: float = 0.1, revision_prompt: str = REVISION_PROMPT) -> None:
        check_beta("SRPO", beta)
        if not 0 <= alpha <= 1:
            raise ValueError(f"SRPO.alpha is {alpha}; expected a number from 0 to 1")
        self.beta, self.alpha, self.revision_prompt = beta, alpha, revision_prompt

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        chosen, rejected, *revised = (
            self.beta * batch.views[name].log_ratio() for name in (*self.views, *self.revisions)
        )
        w_given_l, l_given_l, w_given_w, l_given_w = revised
        both = w_given_l + chosen - l_given_w - rejected - (2 * batch.target - 1)
        first, second = (lead - (batch.target - 0.5) for lead in (w_given_l - l_given_l, w_given_w - l_given_w))
        return (1 - self.alpha) * both**2 + self.alpha * (first**2 + second**2)
