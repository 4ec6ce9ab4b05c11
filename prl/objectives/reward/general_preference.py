"""General preference: embeddings and a skew-symmetric score in place of a reward (GPM, 2410.02197)."""

from torch import Tensor

from prl.objectives.logistic import check_smoothing, smooth, soft_logistic
from prl.objectives.reward.base import PairBatch, RewardObjective
from prl.objectives.skew_symmetric import SkewSymmetric


class GeneralPreference(RewardObjective):
    """-log sigma(s(y_w, y_l) / tau) with s(u, v) = <R u, v>, R skew-symmetric (GPM, 2410.02197).

    Each response is embedded by itself, so a judge reads n responses n times, as with a scalar reward. Unlike a scalar
    reward it fits preferences that go round in a circle. The head has no bias, and begins normal with a standard
    deviation of 1 / (H + 1) over H hidden numbers, as in the authors' code. Their text term on chosen responses and
    their margins of the data are left out.

    Args:
        dim: numbers of an embedding, even: two for each block. The authors trained 2, 4, 6 and 8.
        tau: scale of the score.
        normalize: bring embeddings to length 1, as the authors' inference code does; their current training code does
            not.
        prompt_head: let the prompt weigh the blocks, softmax(W h / sqrt(H)) times their number, h at its last token.
            Reads each prompt once more, by itself.
        label_smoothing: share e of the labels that are taken to be wrong: a target t becomes (1 - e) t + e (1 - t).

    Raises:
        ValueError: for a dim that is not even, a tau that is not a number above 0, a prompt head on one block, or a
            share outside of 0 to 1/2.
    """

    def __init__(
        self,
        dim: int = 4,
        tau: float = 0.1,
        normalize: bool = False,
        prompt_head: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        check_smoothing("GeneralPreference", label_smoothing)
        self.operator: SkewSymmetric = SkewSymmetric(dim, tau, normalize, prompt_head)
        self.label_smoothing = label_smoothing

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = self.operator.margin(*batch.head_rewards(), batch.prompt_blocks)
        return soft_logistic(margin, smooth(batch.target, self.label_smoothing))
