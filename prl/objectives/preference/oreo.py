"""OREO: policy and critic are drawn to the soft Bellman equation on rollouts with a reward."""

import math
from typing import Literal

from torch import Tensor
from torch.nn.functional import pad

from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses


class OREO(PreferenceObjective):
    """Path consistency of a policy and a critic, token by token or step by step (2412.16145).

    With d_t = log pi - log pi_ref of token t, R the reward of a response of T tokens, and V(s_t) the value of the state
    before token t:

        L_V  = 1/T sum_t (V(s_t) - R + beta sum_{i >= t} d_i)^2, for the critic alone,
        L_pi = 1/T sum_t (V(s_t) - R + beta d_t + beta sum_{i > t} d_i)^2 + a KL, for the policy alone,

    where what the policy does after token t gets no gradient, and KL is the mean over tokens of KL(pi || pi_ref) over
    the whole vocabulary. The loss of a response is L_pi + c L_V, that of a row the mean over the responses of its list.
    Both squares are 0 where V(s_t) = R - beta sum_{i >= t} d_i. With a `step_separator` all t are steps of the
    response: d_t is the sum over a step, and s_t the state before its first token.

    A row has rollouts of any policy, the text list `responses` with the numbers `rewards`; one response will do. Of its
    pair nothing is learnt, nor of its label; it is there for the logs.

    The authors take a step of the critic first and then one of the policy; here both learn in one step.

    Args:
        beta: how strongly the policy is held to the reference; 0 fits the critic to rewards and teaches the policy
            nothing.
        kl_coef: a; 0 computes no KL. The authors take 0.01, 0.1 for steps, and 0.3 for `level: response`.
        value_coef: c, which matters most where the critic shares the policy's weights.
        level: token, or response: L_pi is the square at the first state alone, all d with gradient.
        step_separator: text that ends a step, such as a line break, as the authors'; tokens are learnt from when null.

    Raises:
        ValueError: for a beta or coefficient below 0, another level, an empty separator, or one with `level: response`.
    """

    lists = {"responses": ("rewards",)}
    needs_critic = True

    def __init__(
        self,
        beta: float = 0.03,
        kl_coef: float = 0.01,
        value_coef: float = 1.0,
        level: Literal["token", "response"] = "token",
        step_separator: str | None = None,
    ) -> None:
        for name, value in {"beta": beta, "kl_coef": kl_coef, "value_coef": value_coef}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"OREO.{name} is {value}; expected a finite number of at least 0")
        if level not in ("token", "response"):
            raise ValueError(f"OREO.level is {level!r}; expected token or response")
        if level == "response" and step_separator is not None:
            raise ValueError("OREO.step_separator is set, but level: response has no steps; leave one of them out")
        self.beta, self.kl_coef, self.value_coef, self.level = beta, kl_coef, value_coef, level
        self.needs_kl, self.step_separator = kl_coef > 0, step_separator

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each row: [B]."""
        responses, present = batch.views["responses"], batch.present("responses")
        ratios, values, mask = _of_tokens(responses) if self.step_separator is None else _of_steps(responses)
        rest = ratios.flip(1).cumsum(1).flip(1)  # from each token or step on
        gaps = (values - batch.columns["rewards"].reshape(-1, 1)).masked_fill(~mask, 0)
        losses = self.value_coef * _mean((gaps + self.beta * rest.detach()).square(), mask)
        if self.level == "response":
            losses = losses + (gaps.detach() + self.beta * rest).masked_fill(~mask, 0).square()[:, :1].sum(1)
        else:
            later = pad(rest[:, 1:], (0, 1)).detach()
            losses = losses + _mean((gaps.detach() + self.beta * (ratios + later)).square(), mask)
        if self.needs_kl:
            losses = losses + self.kl_coef * _mean(responses.of_states("kl"), responses.mask)
        return losses.view(present.shape).sum(1) / present.sum(1).clamp(min=1)


def _of_tokens(responses: ScoredResponses) -> tuple[Tensor, Tensor, Tensor]:
    """Take log-ratios, values and the mask of tokens: [N, T] each."""
    return responses.log_ratios(), responses.of_states("values"), responses.mask


def _of_steps(responses: ScoredResponses) -> tuple[Tensor, Tensor, Tensor]:
    """Sum log-ratios over each step, and take the values of the states before the steps, and their mask: [N, steps]."""
    steps, values = responses.of_states("steps"), responses.of_states("values")
    is_first = pad(steps[:, 1:] != steps[:, :-1], (1, 0), value=True)
    return (
        responses.by_step(responses.log_ratios()),
        responses.by_step(values.masked_fill(~is_first, 0)),
        responses.by_step(is_first.to(values.dtype)) > 0,
    )


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over the places of a mask: [N, T] to [N]."""
    return values.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)
