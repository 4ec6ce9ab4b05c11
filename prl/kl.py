"""KL estimators on sampled tokens."""

from torch import Tensor

from prl.config import KLEstimator


def token_kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Estimate KL(policy || reference) per token from tokens sampled from the policy: [B, T] -> [B, T].

    With d = log policy - log reference: k1 = d (unbiased, may be negative), k2 = d^2 / 2 (biased, low variance), k3 =
    exp(-d) - 1 + d (unbiased, never negative). Source: Schulman, "Approximating KL divergence" (2020).

    Raises:
        ValueError: for an unknown estimator.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return (-difference).expm1() + difference
    raise ValueError(f"unknown KL estimator {estimator!r}; known: k1, k2, k3")
