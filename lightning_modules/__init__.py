"""The training methods as LightningModules; short class names work in YAML."""

from lightning_modules.bradley_terry import BradleyTerryRewardModule
from lightning_modules.denoising import DenoisingModule
from lightning_modules.denoising_preference import DenoisingPreferenceModule
from lightning_modules.generative_reward import GenerativeRewardModule
from lightning_modules.image_reward import ImageRewardModule
from lightning_modules.oppo import OPPOModule
from lightning_modules.pairwise_ppo import PairwisePPOModule
from lightning_modules.personalized_preference import PersonalizedPreferenceModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.reasoning_reward import ReasoningRewardModule
from lightning_modules.self_npo import SelfNPOModule
from lightning_modules.supervised import SupervisedModule
from lightning_modules.trajectory_policy import TrajectoryPolicyModule
from lightning_modules.yes_no_judge import YesNoJudgeModule
from prl import anchors, judge, rewards  # noqa: F401 - makes short class names known to YAML

__all__ = [
    "BradleyTerryRewardModule",
    "DenoisingModule",
    "DenoisingPreferenceModule",
    "GenerativeRewardModule",
    "ImageRewardModule",
    "OPPOModule",
    "PairwisePPOModule",
    "PersonalizedPreferenceModule",
    "PreferenceModule",
    "ReasoningRewardModule",
    "SelfNPOModule",
    "SupervisedModule",
    "TrajectoryPolicyModule",
    "YesNoJudgeModule",
]
