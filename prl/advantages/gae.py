"""Generalised advantage estimation; the operators in `prl.ops` do the work."""

from typing import NamedTuple

import torch
from torch import Tensor

from prl import ops
from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.config import KLEstimator
from prl.masking import whiten
from prl.types import Rollout, Scores


class ShapedAdvantages(NamedTuple):
    """Results of `shaped_gae`."""

    advantages: Tensor
    """[B, T] (or [N]) float32, zero outside the mask."""
    returns: Tensor
    """[B, T] (or [N]) float32, zero outside the mask."""
    moments: Tensor
    """[3] float64: number of tokens that count, sums of their advantages and of the squares, on this rank only."""


class GAE(AdvantageEstimator):
    """Generalised advantage estimation with a critic (1506.02438, eq. 16).

    Args:
        gamma: discount.
        gae_lambda: trace decay of the advantages.
        critic_lambda: trace decay of the critic's targets; gae_lambda when null (VC-PPO, 2503.01491, takes 1.0 here).
        length_adaptive_alpha: replaces gae_lambda by 1 - 1 / (alpha * length) for each response's advantages (VAPO,
            2504.05118); off when null.
        whiten: scale advantages to zero mean and unit variance over the tokens of the global batch.

    Raises:
        ValueError: for a setting out of its range.
    """

    needs_critic = True

    def __init__(
        self,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        critic_lambda: float | None = None,
        length_adaptive_alpha: float | None = None,
        whiten: bool = True,
    ) -> None:
        for name, value in (("gamma", gamma), ("gae_lambda", gae_lambda), ("critic_lambda", critic_lambda)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"GAE.{name} is {value}; expected a number in [0, 1]")
        if length_adaptive_alpha is not None and not length_adaptive_alpha > 0:
            raise ValueError(
                f"GAE.length_adaptive_alpha is {length_adaptive_alpha}; expected null or a positive number"
            )
        self.gamma, self.gae_lambda, self.critic_lambda = gamma, gae_lambda, critic_lambda
        self.length_adaptive_alpha, self.whiten = length_adaptive_alpha, whiten

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Estimate advantages and returns from the critic's values."""
        assert values is not None, "an estimator that needs a critic has one"
        mask, alpha = rewards.mask, self.length_adaptive_alpha
        # Lengths change the trace decay of the policy only.
        fixed = self.gae_lambda if alpha is not None and self.critic_lambda is None else self.critic_lambda
        decay = self.gae_lambda if alpha is None else length_adaptive_lambda(mask.sum(1), alpha)
        traces = {"gamma": self.gamma, "gae_lambda": decay, "critic_lambda": fixed}
        if rewards.token_rewards is None:
            advantages, returns, moments = shaped_gae(
                *(rewards.logprobs, rewards.ref_logprobs, rewards.rewards, values, mask),
                kl_coef=rewards.kl_coef,
                kl_estimator=rewards.kl_estimator,
                **traces,  # type: ignore[arg-type]
            )
        else:
            advantages, returns = gae(rewards.per_token(), values, mask, **traces)  # type: ignore[arg-type]
            moments = None
        return Advantages(whiten(advantages, mask, moments) if self.whiten else advantages, returns)


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    gae_lambda: float | Tensor = 0.95,
    critic_lambda: float | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute advantages and returns over the tokens that count.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}, return_t = V_t + A_t with the critic's
    lambda. t + 1 is the next token that counts: masked tokens inside a row are skipped, not treated as ends; after the
    last token V and A are zero. Sources: Schulman et al. 2015 (1506.02438), eq. 16; decoupled lambda: VC-PPO
    (2503.01491).

    Args:
        rewards: [B, T] token rewards, float32 or bfloat16.
        values: [B, T] value of the state before each token, float32 or bfloat16.
        mask: [B, T] bool, True on tokens that count.
        gamma: discount in [0, 1].
        gae_lambda: trace decay of the advantages: one number, or [B] one per row (length-adaptive, VAPO 2504.05118).
        critic_lambda: trace decay of the returns; `gae_lambda` when None.
        offsets: [B + 1] int64. When given, the rows lie one after the other in tensors of shape [N] instead: row b is
            offsets[b] ... offsets[b + 1] - 1.

    Returns:
        advantages, returns: float32 in the shape of the inputs, zero outside the mask. Constants: no gradient flows.

    Raises:
        ValueError: when shapes, dtypes or devices do not fit.
    """
    row_lambda = _row_lambda(gae_lambda)
    _check({"rewards": rewards, "values": values}, mask, {"gae_lambda": row_lambda}, offsets)
    return torch.ops.prl.gae(
        rewards, values, mask, gamma, _one_lambda(gae_lambda), critic_lambda, row_lambda=row_lambda, offsets=offsets
    )


def shaped_gae(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    kl_coef: float,
    kl_estimator: KLEstimator = "k1",
    gamma: float = 1.0,
    gae_lambda: float | Tensor = 0.95,
    critic_lambda: float | None = None,
    offsets: Tensor | None = None,
) -> ShapedAdvantages:
    """Compute `gae` of r_t = -kl_coef * kl_t, plus the score on each row's last token that counts; r_t is never stored.

    The results include the sums that whitening over the global batch needs (`prl.masking.whiten`).

    Args:
        logprobs: [B, T] log-probability of each token under the policy that sampled it.
        ref_logprobs: [B, T] log-probabilities under the reference. Not read when kl_coef is 0.
        scores: [B] float32 reward of each response. A row without tokens that count gets no reward.
        values: as for `gae`.
        mask: as for `gae`.
        kl_coef: weight of the KL penalty.
        kl_estimator: k1, k2 or k3 (`prl.kl.token_kl`).
        gamma: as for `gae`.
        gae_lambda: as for `gae`.
        critic_lambda: as for `gae`.
        offsets: as for `gae`.

    Raises:
        ValueError: when shapes, dtypes or devices do not fit, or the estimator is unknown.
    """
    row_lambda = _row_lambda(gae_lambda)
    tokens = {"logprobs": logprobs, "ref_logprobs": ref_logprobs, "values": values}
    _check(tokens, mask, {"scores": scores, "gae_lambda": row_lambda}, offsets)
    ops.operators.known_estimator(kl_estimator)
    found = torch.ops.prl.shaped_gae(
        *(logprobs, ref_logprobs, scores, values, mask, kl_coef, kl_estimator, gamma, _one_lambda(gae_lambda)),
        critic_lambda,
        row_lambda=row_lambda,
        offsets=offsets,
    )
    return ShapedAdvantages(*found)


def length_adaptive_lambda(lengths: Tensor, alpha: float) -> Tensor:
    """Compute 1 - 1 / (alpha l), at least 0, for responses of length l: [B] -> [B]. Source: VAPO (2504.05118)."""
    return (1 - 1 / (alpha * lengths.float())).clamp(min=0)


def _check(tokens: dict[str, Tensor], mask: Tensor, rows: dict[str, Tensor | None], offsets: Tensor | None) -> None:
    ops.operators.check(tokens, mask, rows, offsets)
    # Reading the row starts would wait for a GPU and break a compiled graph.
    if offsets is not None and offsets.device.type == "cpu" and not torch.compiler.is_compiling():
        ops.operators.check_rising(offsets, mask.shape[0])


def _row_lambda(gae_lambda: float | Tensor) -> Tensor | None:
    return gae_lambda.detach() if isinstance(gae_lambda, Tensor) else None


def _one_lambda(gae_lambda: float | Tensor) -> float:
    return 0.0 if isinstance(gae_lambda, Tensor) else gae_lambda
