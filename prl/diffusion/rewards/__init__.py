"""Rewards and judges of pictures. `base.py` has the sockets, other files one method each."""

from prl.diffusion.rewards.adversarial import AdversarialReward
from prl.diffusion.rewards.base import ImageJudge, ImageReward, WeightedImageRewards
from prl.diffusion.rewards.harmonic import HarmonicReward
from prl.diffusion.rewards.learned import LearnedImageReward
from prl.diffusion.rewards.noisy_latents import NoisyLatentReward
from prl.diffusion.rewards.win_rate import RewardDifference, WinRate
from prl.diffusion.rewards.yes_no import ConsistencyReward, VisionJudge

__all__ = [
    "AdversarialReward",
    "ConsistencyReward",
    "HarmonicReward",
    "ImageJudge",
    "ImageReward",
    "LearnedImageReward",
    "NoisyLatentReward",
    "RewardDifference",
    "VisionJudge",
    "WeightedImageRewards",
    "WinRate",
]
