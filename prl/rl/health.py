"""Findings of PPO runs that go wrong: one sentence each with cause and fix, and counts."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prl.config import Health
from prl.distributed import global_sum

SATURATED = (0.1, 0.9)
"""Outside these win probabilities the sigmoid is nearly flat: the reward hardly tells responses apart."""

NOT_FINITE = {
    "margins": "the judge gave log-odds that are not finite. Its numbers overflow: load it in float32 or bfloat16 "
    "instead of float16, and try the saved texts with `prl judge`",
    "rewards": "rewards are not finite although the judge's log-odds are. A reward setting or a reward source of your "
    "own makes them so: look at the shapers in model.init_args.shaping",
    "old_logprobs": "the policy gives log-probabilities that are not finite. Its weights or activations overflow: go "
    "back to an earlier checkpoint with a lower optimization.learning_rate, and use bf16-mixed or 32-true precision",
    "ref_logprobs": "the reference gives log-probabilities that are not finite while the policy does not. Its weights "
    "are damaged or overflow: check the folder it is read from, and its dtype",
    "values": "the critic's values are not finite. It learns too fast: lower critic.learning_rate, or keep "
    "critic.value_clip_range",
    "advantages": "advantages or returns are not finite although rewards, log-probabilities and values are. The KL of "
    "a token overflows: look at the largest log-ratio in the saved batch, and lower optimization.learning_rate",
    "step": "a loss, ratio or gradient of the update is not finite although its batch was. The policy moved too far "
    "within one iteration: lower optimization.learning_rate, update.epochs or update.max_grad_norm, or set "
    "update.stop_kl",
}
"""Kind -> cause and fix of a number that is not finite; the first kind in this order causes the others."""


TRAINING_NOT_FINITE = (
    "The model moved too far in the steps before: lower optimization.learning_rate, raise optimization.warmup or set "
    "trainer.gradient_clip_val. In the first batches it is weights or activations that overflow: use bf16-mixed or "
    "32-true precision"
)
"""Cause and fix for training modules that learn from data."""
WEIGHTS_NOT_FINITE = "trained weights are not finite. The last steps were too large: lower optimization.learning_rate"


class HealthError(ValueError):
    """Raised for numbers that are not finite, when the run cannot go on."""


@dataclass(frozen=True)
class Finding:
    """A problem that does not stop training."""

    kind: str
    """Kind of the finding, counted as health/<kind>."""
    sentence: str


def not_finite(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Count the NaN and infinite numbers of each tensor over all ranks; tensors without any are left out."""
    counts = global_sum(torch.stack([(~tensor.isfinite()).sum() for tensor in tensors.values()]))
    return {name: int(count) for name, count in zip(tensors, counts.tolist(), strict=True) if count}


KINDS = ("exploding_ratio", "equal_rewards", "empty_responses", "collapsed_entropy", "negative_kl", "saturated")
"""Findings that are counted and logged as warnings."""


def findings(numbers: dict[str, float], limits: Health, first_entropy: float) -> list[Finding]:
    """Find problems in the logged numbers of an iteration.

    Args:
        numbers: tag -> number of one iteration (docs/metrics.md); missing tags are not checked.
        limits: limits of the findings.
        first_entropy: entropy per token in the first iteration of the run, nats.
    """
    found = []

    def above(kind: str, tag: str, limit: float | None, sentence: str) -> None:
        if limit is not None and numbers.get(tag, limit) > limit:
            found.append(Finding(kind, sentence.format(value=numbers[tag], limit=limit)))

    above(
        *("exploding_ratio", "policy/ratio_max", limits.max_ratio),
        "a token became {value:.3g} times as likely within one update (health.max_ratio {limit:g}). Steps are too "
        "large: lower optimization.learning_rate or update.epochs, or set update.stop_kl",
    )
    if numbers.get("reward/score_std", 1.0) < 1e-6:
        found.append(Finding("equal_rewards", EQUAL_REWARDS))
    above(
        *("empty_responses", "completions/empty_ratio", limits.max_empty),
        "{value:.0%} of the responses are empty or white space (health.max_empty {limit:g}). The policy found that "
        "saying nothing pays, or the prompts end in its end token: read samples/, and try empty responses with `prl "
        "judge`",
    )
    entropy = numbers.get("policy/entropy_sampled", first_entropy)
    if limits.min_entropy is not None and entropy < limits.min_entropy * first_entropy:
        found.append(
            Finding(
                "collapsed_entropy",
                f"entropy per token fell to {entropy:.3g} nats, from {first_entropy:.3g} in the first iteration "
                f"(health.min_entropy {limits.min_entropy:g}). The policy says one thing whatever it is asked: raise "
                "kl.coef or the objective's entropy_coef, or lower optimization.learning_rate",
            )
        )
    kl, error = numbers.get("kl/k1", 0.0), numbers.get("kl/k1_stderr", math.inf)
    if kl < -4 * error and kl < -1e-6:  # a KL is never negative, and its estimate not by that much
        found.append(
            Finding(
                "negative_kl",
                f"the estimated KL to the reference is {kl:.3g} nats with a standard error of {error:.2g}, and no KL "
                "is negative. Responses do not come from the distribution that is scored: check "
                "sampling.temperature, dropout, and that nothing else changes the logits while sampling",
            )
        )
    above(
        *("saturated", "reward/saturated_frac", limits.max_saturated),
        "{value:.0%} of the win probabilities lie outside 0.1 to 0.9 (health.max_saturated {limit:g}), where the "
        "reward hardly moves. The anchors are too weak or too strong, or the judge is overconfident: choose other "
        "anchors, set the judge's fitted temperature, or shape by prl.rewards.shapers.LogOdds",
    )
    return found


EQUAL_REWARDS = (
    "all responses of the iteration have one reward, so there is nothing to learn from. The judge does not tell them "
    "apart: compare two of them with `prl judge`, look at reward/judge_cut_rate, and check that no shaper "
    "(MissingEOS) overrules every verdict"
)


class HealthRecord:
    """Counts of findings, and of skipped updates, over a run and its resumes."""

    def __init__(self, limits: Health) -> None:
        self.limits = limits
        self.skipped = 0
        self.first_entropy: float | None = None
        self.counts: Counter[str] = Counter()

    def watch(self, numbers: dict[str, float]) -> list[Finding]:
        """Count the findings of an iteration, and return those to log now."""
        if self.first_entropy is None:
            self.first_entropy = numbers.get("policy/entropy_sampled")
        told = []
        for finding in findings(numbers, self.limits, self.first_entropy or 0.0):
            if self.counts[finding.kind] % self.limits.warn_every == 0:
                told.append(finding)
            self.counts[finding.kind] += 1
        return told

    def numbers(self) -> dict[str, float]:
        """Return the counts by tag."""
        return {
            "health/skipped_steps": float(self.skipped),
            **{f"health/{kind}": float(self.counts[kind]) for kind in KINDS},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counts to save."""
        return {"skipped": self.skipped, "first_entropy": self.first_entropy, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from saved counts."""
        self.skipped, self.first_entropy = state["skipped"], state["first_entropy"]
        self.counts = Counter(state["counts"])
