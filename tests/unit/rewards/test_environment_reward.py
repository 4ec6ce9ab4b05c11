"""What an environment gave becomes rewards of responses and of turns."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from prl.advantages.base import TokenRewards
from prl.environments.base import PLAYED, Played
from prl.rewards import EnvironmentReward, WeightedReward
from prl.types import PromptBatch, Rollout, Scores

EPISODES = [Played((1, 4), (0.5, 1.0), True), Played((0,), (-0.1,), False), Played((), (), False)]


def rollout(episodes: list[Any]) -> Rollout:
    ids = torch.ones(len(episodes), 1, dtype=torch.long)
    extras = [{"name": "x", **({} if each is None else {PLAYED: each})} for each in episodes]
    batch = PromptBatch(ids, ids.bool(), [()] * len(ids), [()] * len(ids), extras)
    own = torch.tensor([[True, True, False, False, True], [True] + [False] * 4, [True] * 5])[: len(ids)]
    context = torch.tensor([[True] * 5, [True] + [False] * 4, [True] * 5])[: len(ids)]
    return Rollout(batch, own.long(), own, own[:, 0], [""] * len(ids), 5, context)


def per_token(scores: Scores, found: Rollout) -> list[list[float]]:
    zeros = torch.zeros(found.response_ids.shape)
    return (
        TokenRewards(scores.rewards, scores.token_rewards, zeros, zeros, found.response_mask, 0.0, "k1")
        .per_token()
        .tolist()
    )


@pytest.mark.parametrize(
    ("dense", "expected"),
    [(True, [[0.0, 0.5, 0.0, 0.0, 1.0], [-0.1, 0, 0, 0, 0]]), (False, [[0, 0, 0, 0, 1.5], [-0.1, 0, 0, 0, 0]])],
)
def test_rewards_of_turns_or_their_sum(dense: bool, expected: list[list[float]]) -> None:
    found = rollout(EPISODES)
    scores = EnvironmentReward(dense).score(found)
    assert per_token(scores, found)[:2] == [pytest.approx(each) for each in expected]
    assert not any(per_token(scores, found)[2])
    assert (scores.token_rewards is None) != dense
    assert scores.verdict is None
    assert scores.components["return"].tolist() == pytest.approx([1.5, -0.1, 0.0])
    assert scores.components["success"].tolist() == [1.0, 0.0, 0.0]
    assert not scores.failed.any()


@pytest.mark.parametrize("dense", [True, False])
def test_a_turn_without_a_reward_leaves_the_response_out(dense: bool) -> None:
    scores = EnvironmentReward(dense).score(rollout([replace(EPISODES[0], rewards=(float("nan"), 1.0)), EPISODES[1]]))
    assert scores.failed.tolist() == [True, False]


def test_responses_that_nobody_answered_are_refused() -> None:
    with pytest.raises(ValueError, match="none has answered; set sampler to prl.rollouts.Conversation"):
        EnvironmentReward().score(rollout([None]))


def test_a_sum_of_sources_takes_it_at_the_end_alone() -> None:
    with pytest.raises(ValueError, match="sources.game has EnvironmentReward, .* set dense: false"):
        WeightedReward({"game": EnvironmentReward()}, {"game": 1.0})
    WeightedReward({"game": EnvironmentReward(dense=False)}, {"game": 1.0})
