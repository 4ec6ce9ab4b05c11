"""Loss of a micro-batch: the policy's objective, the KL where it is a loss, and the critic's regression."""

from torch import Tensor

from prl.config import CriticSettings, KLPenalty
from prl.kl import token_kl
from prl.objectives.policy.base import PolicyObjective, PolicyOutputs
from prl.objectives.policy.clipped import clipped_value_loss
from prl.types import Experience


def token_weights(
    mask: Tensor, aggregation: str, total_tokens: Tensor, total_rows: Tensor, row_weights: Tensor
) -> Tensor:
    """Compute the weight of each token in the loss, which sum to one over the minibatch of all ranks: [B, T].

    token_mean: w / sum of w over tokens. sequence_mean: w / (length of the row * sum of w over rows).

    Args:
        mask: [B, T] bool.
        aggregation: token_mean or sequence_mean.
        total_tokens: sum of w over the minibatch's tokens on all ranks.
        total_rows: sum of w over the minibatch's responses on all ranks.
        row_weights: [B] w, the weights of the responses.
    """
    weighted = mask * row_weights[:, None]
    if aggregation == "token_mean":
        return weighted / total_tokens
    return weighted / (mask.sum(1, keepdim=True).clamp(min=1) * total_rows)


def minibatch_loss(
    experience: Experience,
    policy: PolicyOutputs | None,
    values: Tensor | None,
    weights: Tensor,
    *,
    objective: PolicyObjective,
    kl: KLPenalty,
    kl_coef: float,
    critic: CriticSettings | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the losses of a micro-batch, with detached statistics that sum over micro-batches.

    Args:
        experience: rows of this micro-batch.
        policy: outputs of the policy on these rows; None while only the critic learns.
        values: [B, T] values of the critic, with gradient; None without a critic.
        weights: [B, T] from `token_weights`.
        objective: objective of the policy.
        kl: settings of the KL.
        kl_coef: current weight of the KL, used when `kl.placement` is loss.
        critic: settings of the critic; None without a critic.
    """
    loss, stats = weights.new_zeros(()), dict[str, Tensor]()
    if values is not None and critic is not None:
        value_loss, stats = _value_loss(experience, values, weights, critic.value_clip_range)
        loss = critic.value_coef * value_loss
    if policy is not None:
        policy_loss, policy_stats = objective(policy, experience, weights)
        loss, stats = loss + policy_loss, stats | policy_stats
        if kl.placement == "loss":
            per_token = token_kl(policy.logprobs, experience.ref_logprobs, kl.estimator)
            loss = loss + kl_coef * (per_token * weights).sum()
    return loss, {name: value.detach() for name, value in stats.items()}


def _value_loss(
    experience: Experience, values: Tensor, weights: Tensor, clip_range: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    old, returns = experience.values, experience.returns
    assert old is not None
    assert returns is not None
    per_token = clipped_value_loss(values, old, returns, value_clip_range=clip_range)
    stats = {"value_loss": (per_token * weights).sum()}
    if clip_range is not None:
        moved: Tensor = (values - old).abs() > clip_range
        stats["value_clip_frac"] = (moved.float() * weights).sum()
    return stats["value_loss"], stats
