"""OREO: policy and critic are drawn to the soft Bellman equation on rollouts with a reward."""

import math
from typing import Literal

from torch import Tensor
from torch.nn.functional import pad

from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class OREO(PreferenceObjective):
    """Path consistency of a policy and a critic, token by token (2412.16145).

    With d_t = log pi - log pi_ref of token t, R the reward of a response of T tokens, and V(s_t) the value of the state
    before token t:

        L_V  = 1/T sum_t (V(s_t) - R + beta sum_{i >= t} d_i)^2, for the critic alone,
        L_pi = 1/T sum_t (V(s_t) - R + beta d_t + beta sum_{i > t} d_i)^2 + a KL, for the policy alone,

    where what the policy does after token t gets no gradient, and KL is the mean over tokens of KL(pi || pi_ref) over
    the whole vocabulary. The loss of a response is L_pi + c L_V, that of a row the mean over the responses of its list.
    Both squares are 0 where V(s_t) = R - beta sum_{i >= t} d_i.

    A row has rollouts of any policy, the text list `responses` with the numbers `rewards`; one response will do. Of its
    pair nothing is learnt, nor of its label; it is there for the logs.

    The authors take a step of the critic first and then one of the policy; here both learn in one step. Their variant
    over steps of several tokens is not built.

    Args:
        beta: how strongly the policy is held to the reference; 0 fits the critic to rewards and teaches the policy
            nothing.
        kl_coef: a; 0 computes no KL. The authors take 0.01, and 0.3 for `level: response`.
        value_coef: c, which matters most where the critic shares the policy's weights.
        level: token, or response: L_pi is the square at the first state alone, all d with gradient.

    Raises:
        ValueError: for a beta or coefficient below 0, or another level.
    """

    lists = {"responses": ("rewards",)}
    needs_critic = True

    def __init__(
        self,
        beta: float = 0.03,
        kl_coef: float = 0.01,
        value_coef: float = 1.0,
        level: Literal["token", "response"] = "token",
    ) -> None:
        for name, value in {"beta": beta, "kl_coef": kl_coef, "value_coef": value_coef}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"OREO.{name} is {value}; expected a finite number of at least 0")
        if level not in ("token", "response"):
            raise ValueError(f"OREO.level is {level!r}; expected token or response")
        self.beta, self.kl_coef, self.value_coef, self.level = beta, kl_coef, value_coef, level
        self.needs_kl = kl_coef > 0

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each row: [B]."""
        responses, present = batch.views["responses"], batch.present("responses")
        mask, rewards = responses.mask, batch.columns["rewards"].reshape(-1, 1)
        ratios = responses.log_ratios()
        rest = ratios.flip(1).cumsum(1).flip(1)  # from each token on
        gaps = responses.of_states("values").masked_fill(~mask, 0) - rewards

        def mean(values: Tensor) -> Tensor:
            return values.masked_fill(~mask, 0).sum(1) / responses.lengths.clamp(min=1)

        losses = self.value_coef * mean((gaps + self.beta * rest.detach()).square())
        if self.level == "response":
            losses = losses + (gaps.detach() + self.beta * rest).masked_fill(~mask, 0).square()[:, :1].sum(1)
        else:
            later = pad(rest[:, 1:], (0, 1)).detach()
            losses = losses + mean((gaps.detach() + self.beta * (ratios + later)).square())
        if self.needs_kl:
            losses = losses + self.kl_coef * mean(responses.of_states("kl"))
        return losses.view(present.shape).sum(1) / present.sum(1).clamp(min=1)
