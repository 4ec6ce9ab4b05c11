"""f-DPO: DPO with another divergence than the reverse KL between policy and reference."""

import math
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from prl.objectives.logistic import check_beta, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
EXPONENT_LIMIT = 30.0
"""Exponent of e from which a power goes on as its tangent: float32 holds e^88, and the square of a gradient e^44."""


class FDPO(PreferenceObjective):
    """-log sigma(beta (f'(u_w) - f'(u_l))), u = e^rho the ratio of a response to the reference (2309.16240).

    f'(u) is rho for `reverse_kl`, which is DPO; 1 - 1/u for `forward_kl`; log(2u / (1 + u)) for `js`, the
    Jensen-Shannon divergence; (1 - u^-alpha) / alpha for `alpha`. They are computed from rho. A power u^-alpha above
    e^30 goes on as its tangent, so loss and gradients are finite and keep their sign for any log-ratio.

    Args:
        beta: how strongly the policy is held to the reference; the authors ran 0.1 and 0.3.
        divergence: the f, see above.
        alpha: power of the alpha-divergence, between 0 (reverse KL) and 1 (forward KL); the authors ran 0.3, 0.5 and
            0.7, and 0.5 is taken when None. TRL's coefficient is 1 - alpha.

    Raises:
        ValueError: for a setting out of its range, or an alpha beside another divergence.
    """

    def __init__(self, beta: float = 0.1, divergence: Divergence = "alpha", alpha: float | None = None) -> None:
        check_beta("FDPO", beta)
        if divergence not in get_args(Divergence):
            raise ValueError(f"FDPO.divergence is {divergence!r}; expected reverse_kl, forward_kl, js or alpha")
        if alpha is not None and divergence != "alpha":
            raise ValueError(f"FDPO.alpha is {alpha}, but divergence {divergence!r} has none; leave it out (null)")
        power = 1.0 if divergence == "forward_kl" else 0.5 if alpha is None else alpha
        if divergence == "alpha" and not 0 < power < 1:
            raise ValueError(f"FDPO.alpha is {alpha}; expected a number between 0 (reverse_kl) and 1 (forward_kl)")
        self.beta, self.divergence, self.power = beta, divergence, power

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        return soft_logistic(self.reward(batch.chosen) - self.reward(batch.rejected), batch.target)

    def reward(self, responses: ScoredResponses) -> Tensor:
        """Compute the implicit reward of each response, beta f'(u): [N]."""
        return self.beta * self._score(responses.log_ratio())

    def _score(self, rho: Tensor) -> Tensor:
        if self.divergence == "reverse_kl":
            return rho
        if self.divergence == "js":
            return F.logsigmoid(rho) + math.log(2)
        exponent = -self.power * rho
        beyond = F.relu(exponent - EXPONENT_LIMIT)
        return -(exponent.clamp(max=EXPONENT_LIMIT).expm1() + math.exp(EXPONENT_LIMIT) * beyond) / self.power
