"""The judge: template, verdict tokens, both orders, and the objects that compare two responses or reward one."""

from prl.judge.base import PairwiseJudge
from prl.judge.bradley_terry import BradleyTerryJudge
from prl.judge.encoding import ComparisonEncoder
from prl.judge.endpoint import EndpointJudge
from prl.judge.generative import GenerativeJudge
from prl.judge.loading import Judge, load_judge
from prl.judge.rule import RuleReward
from prl.judge.scalar import ScalarReward
from prl.judge.source import RewardSource
from prl.judge.template import JudgeTemplate
from prl.judge.weighted import WeightedReward

__all__ = [
    "BradleyTerryJudge",
    "ComparisonEncoder",
    "EndpointJudge",
    "GenerativeJudge",
    "Judge",
    "JudgeTemplate",
    "PairwiseJudge",
    "RewardSource",
    "RuleReward",
    "ScalarReward",
    "WeightedReward",
    "load_judge",
]
