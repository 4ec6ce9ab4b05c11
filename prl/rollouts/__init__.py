"""Sampling responses: by the policy, here or on a server, from prompts, beginnings or refinements, or in turns."""

from prl.rollouts.base import PolicyHandle, Sampler
from prl.rollouts.conversation import Conversation
from prl.rollouts.local import LocalSampler
from prl.rollouts.prefix_reset import PrefixReset
from prl.rollouts.self_refine import SelfRefine
from prl.rollouts.server import RolloutServer

__all__ = ["Conversation", "LocalSampler", "PolicyHandle", "PrefixReset", "RolloutServer", "Sampler", "SelfRefine"]
