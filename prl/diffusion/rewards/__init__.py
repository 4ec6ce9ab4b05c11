"""Rewards and judges of pictures. `base.py` has the sockets, other files one method each."""

from prl.diffusion.rewards.adversarial import AdversarialReward
from prl.diffusion.rewards.base import ImageJudge, ImageReward, WeightedImageRewards
from prl.diffusion.rewards.harmonic import HarmonicReward
from prl.diffusion.rewards.learned import LearnedImageReward
from prl.diffusion.rewards.win_rate import RewardDifference, WinRate

__all__ = [
    "AdversarialReward",
    "HarmonicReward",
    "ImageJudge",
    "ImageReward",
    "LearnedImageReward",
    "RewardDifference",
    "WeightedImageRewards",
    "WinRate",
]
