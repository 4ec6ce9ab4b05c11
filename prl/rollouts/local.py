"""Sampler that lets the policy sample in the process that trains it."""

from prl.rollouts.base import PolicyHandle, Sampler
from prl.types import PromptBatch, Rollout


class LocalSampler(Sampler):
    """Sample from the policy in the process that trains it."""

    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt."""
        return policy.generate(batch)
