"""Sampling responses: by the policy in this process, or by an inference server."""

from prl.rollouts.base import PolicyHandle, Sampler
from prl.rollouts.local import LocalSampler
from prl.rollouts.self_refine import SelfRefine
from prl.rollouts.server import RolloutServer

__all__ = ["LocalSampler", "PolicyHandle", "RolloutServer", "Sampler", "SelfRefine"]
