"""Judges: template, verdict tokens, both orders, and the classes that compare two responses or reward one."""

from prl.judge.adaptive import AdaptiveOrder
from prl.judge.base import PairwiseJudge
from prl.judge.bradley_terry import BradleyTerryJudge
from prl.judge.encoding import ComparisonEncoder
from prl.judge.endpoint import EndpointJudge
from prl.judge.endpoint_rubric import EndpointRubric
from prl.judge.general_preference import GeneralPreferenceJudge
from prl.judge.generative import GenerativeJudge
from prl.judge.generative_rubric import GenerativeRubric
from prl.judge.implicit import ImplicitJudge
from prl.judge.loading import Judge, load_judge
from prl.judge.self_referee import SelfReferee
from prl.judge.stored import StoredJudge
from prl.judge.template import JudgeTemplate
from prl.judge.thought_process import ThoughtProcessJudge

__all__ = [
    "AdaptiveOrder",
    "BradleyTerryJudge",
    "ComparisonEncoder",
    "EndpointJudge",
    "EndpointRubric",
    "GeneralPreferenceJudge",
    "GenerativeJudge",
    "GenerativeRubric",
    "ImplicitJudge",
    "Judge",
    "JudgeTemplate",
    "PairwiseJudge",
    "SelfReferee",
    "StoredJudge",
    "ThoughtProcessJudge",
    "load_judge",
]
