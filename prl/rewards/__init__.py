"""Rewards of responses. `base.py` has the socket, other files its classes; judges are in `prl.judge`."""

from prl.rewards.base import RewardSource
from prl.rewards.ensemble import Ensemble
from prl.rewards.environment import EnvironmentReward
from prl.rewards.gated import GatedReward
from prl.rewards.heron import HERON
from prl.rewards.implicit import ImplicitReward
from prl.rewards.multi_head import MultiHead
from prl.rewards.rubric import Rubric, RuleRubric
from prl.rewards.rule import RuleReward
from prl.rewards.scalar import ScalarReward
from prl.rewards.step_marks import RuleMarks, StepMarks
from prl.rewards.token_guide import TokenGuide
from prl.rewards.tool_reward import ToolReward
from prl.rewards.weighted import WeightedReward

__all__ = [
    "HERON",
    "Ensemble",
    "EnvironmentReward",
    "GatedReward",
    "ImplicitReward",
    "MultiHead",
    "RewardSource",
    "Rubric",
    "RuleMarks",
    "RuleReward",
    "RuleRubric",
    "ScalarReward",
    "StepMarks",
    "TokenGuide",
    "ToolReward",
    "WeightedReward",
]
