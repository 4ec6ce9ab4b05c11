"""Sampling responses: by the policy, here or on a server, from the prompt, a part of a response, or a refinement."""

from prl.rollouts.base import PolicyHandle, Sampler
from prl.rollouts.local import LocalSampler
from prl.rollouts.prefix_reset import PrefixReset
from prl.rollouts.self_refine import SelfRefine
from prl.rollouts.server import RolloutServer

__all__ = ["LocalSampler", "PolicyHandle", "PrefixReset", "RolloutServer", "Sampler", "SelfRefine"]
