"""Settings of PPO that contradict each other are refused before anything is read."""

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.ppo_checks import check_methods, check_roles, check_run
from prl.advantages import GAE, GroupNormalized, PairwiseMatrix
from prl.anchors import DatasetAnchors, GroupReference, RoundRobin
from prl.config import KLPenalty, ModelSource, Sampling, Update
from prl.judge import SelfReferee
from prl.objectives.policy import DRPO, GPO, P3O, PPO, TRPA
from prl.rewards import EnvironmentReward, MultiHead, RuleReward, WeightedReward
from prl.rewards.shapers import LearnedMix
from prl.rollouts import LocalSampler
from tests.helpers.tiny import LengthJudge

DRAWN: dict[str, Any] = {"sampler": LocalSampler(), "reward": RuleReward()}


def run(microbatch_size: int, minibatches: int, objective: Any, per_prompt: int, kl: KLPenalty | None = None) -> None:
    trainer = SimpleNamespace(precision="32-true", datamodule=SimpleNamespace(batch_size=4), world_size=1)
    update = Update(microbatch_size=microbatch_size, minibatches=minibatches)
    check_run(update, objective, kl or KLPenalty(0.0), per_prompt, trainer)


def test_an_objective_that_compares_responses_needs_several_of_a_prompt() -> None:
    settings: dict[str, Any] = {"filters": [], "anchors": DatasetAnchors(), "critic": None, **DRAWN}
    advantage: Any = GroupNormalized()
    advantage.min_per_prompt = 1
    with pytest.raises(ValueError, match="objective: P3O compares the responses of a prompt, at least 2, .* is 1"):
        check_methods(advantage, objective=P3O(), sampling=Sampling(per_prompt=1), **settings)
    check_methods(advantage, objective=P3O(), sampling=Sampling(per_prompt=2), **settings)
    check_methods(advantage, objective=PPO(), sampling=Sampling(per_prompt=1), **settings)


@pytest.mark.parametrize("objective", [DRPO(), TRPA()])
def test_a_kl_in_rewards_that_nobody_reads_is_refused(objective: Any) -> None:
    with pytest.raises(ValueError, match="kl.coef is 0.05 with placement: reward, and objective: .* reads no advant"):
        run(2, 1, objective, 2, KLPenalty(0.05))
    run(2, 1, objective, 2, KLPenalty(0.05, "k2", "loss"))
    run(2, 1, PPO(), 2, KLPenalty(0.05))


def test_a_reward_that_compares_responses_needs_several_of_a_prompt() -> None:
    nested = WeightedReward({"referee": SelfReferee()}, {"referee": 1.0})
    settings: dict[str, Any] = {"filters": [], "anchors": DatasetAnchors(), "critic": None, **DRAWN, "reward": nested}
    with pytest.raises(ValueError, match="reward: SelfReferee compares the responses of a prompt, at least 2, .* is 1"):
        check_methods(GAE(), objective=PPO(), sampling=Sampling(per_prompt=1), **settings)
    check_methods(GAE(), objective=PPO(), sampling=Sampling(per_prompt=2), **settings)


def test_a_shaper_reads_a_reward_that_is_there() -> None:
    parts = {name: RuleReward() for name in ("helpful", "correct")}
    given = WeightedReward(parts, {"helpful": 1.0, "correct": 0.0})
    nested = WeightedReward({"sum": given, "length": RuleReward()}, {"sum": 1.0, "length": 1.0})
    from_models = WeightedReward({"heads": MultiHead("folder")}, {"heads": 1.0})
    settings: dict[str, Any] = {"filters": [], "anchors": DatasetAnchors(), "critic": None, "objective": PPO()}
    settings |= {"advantage": GAE(), "sampling": Sampling(), "sampler": LocalSampler()}
    mix = LearnedMix({"helpful": 1.0}, target="correct")
    check_methods(reward=given, shaping=[mix], **settings)
    check_methods(reward=nested, shaping=[LearnedMix({"sum/helpful": 1.0}, target="length")], **settings)
    check_methods(reward=from_models, shaping=[mix], **settings)
    for reward in (nested, RuleReward()):
        with pytest.raises(
            ValueError, match=r"LearnedMix reads the sources \['correct', 'helpful'\], and the reward has"
        ):
            check_methods(reward=reward, shaping=[mix], **settings)


def test_a_microbatch_has_room_for_a_prompt_whose_responses_are_compared() -> None:
    with pytest.raises(ValueError, match=r"update.microbatch_size is 3, but objective: P3O compares .*, 4 by sampling"):
        run(3, 1, P3O(), 4)
    run(4, 4, P3O(), 4)
    run(3, 4, GPO(), 4)  # which reads each response by itself


def test_minibatches_are_counted_in_whole_prompts() -> None:
    """Sixteen rows of four prompts: three micro-batches of up to seven rows, four of one prompt, two of two."""
    run(7, 3, PPO(), 4)
    run(7, 4, P3O(), 4)
    with pytest.raises(ValueError, match="update.minibatches is 4, but an iteration has only 3 micro-batches"):
        run(7, 4, PPO(), 4)
    with pytest.raises(ValueError, match="update.minibatches is 3, but an iteration has only 2 micro-batches"):
        run(9, 3, P3O(), 4)


def test_an_estimator_that_compares_a_group_needs_the_group_as_anchors() -> None:
    settings: dict[str, Any] = {"filters": [], "critic": None, "objective": PPO(), "sampling": Sampling(per_prompt=4)}
    settings |= DRAWN
    for anchors in (DatasetAnchors(), GroupReference()):
        with pytest.raises(ValueError, match=f"PairwiseMatrix compares .* {type(anchors).__name__} gives other"):
            check_methods(PairwiseMatrix(), anchors=anchors, **settings)
    assert check_methods(PairwiseMatrix(), anchors=RoundRobin(), **settings) is None


def test_a_heldout_judge_needs_validations_that_compare() -> None:
    policy = ModelSource(path="policy")
    with pytest.raises(ValueError, match="validations of reward: EnvironmentReward have none; set heldout_judge"):
        check_roles(policy, None, EnvironmentReward(), LengthJudge(), 1)
    with pytest.raises(ValueError, match="validation.patience waits for a better win rate, .* EnvironmentReward have"):
        check_roles(policy, None, EnvironmentReward(), None, 1, patience=2)
    check_roles(policy, None, EnvironmentReward(), None, 1)
    check_roles(policy, None, RuleReward(), LengthJudge(), 1)
