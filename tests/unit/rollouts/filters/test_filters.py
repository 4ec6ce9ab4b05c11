from typing import Any

import pytest
import torch

from prl.rollouts.filters.equal_groups import DropEqualGroups
from prl.rollouts.filters.policy_filtration import PolicyFiltration
from prl.rollouts.filters.skewed_groups import DropSkewedGroups
from prl.rollouts.filters.unfinished import DropUnfinished
from prl.types import PromptBatch, Rollout, Scores


def rollout(prompts: int, per_prompt: int) -> Rollout:
    ids = torch.ones(prompts, 1, dtype=torch.long)
    batch = PromptBatch(ids, ids.bool(), [()] * prompts, [()] * prompts).repeat(per_prompt)
    mask = torch.ones(len(batch), 2, dtype=torch.bool)
    return Rollout(batch, mask.long(), mask, mask[:, 0].clone(), [""] * len(batch), 2)


def test_unfinished_responses_are_left_out() -> None:
    found = rollout(2, 2)
    found.finished[1] = False
    assert DropUnfinished().weights(found, Scores(torch.zeros(4))).tolist() == [1.0, 0.0, 1.0, 1.0]


def test_groups_of_equal_rewards_are_left_out() -> None:
    nan = torch.nan
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, -2.0, nan, -2.0, nan, nan, 0.5, 0.5, 0.75, 0.5])
    weights = DropEqualGroups().weights(rollout(5, 3), Scores(rewards))
    assert weights.view(5, 3)[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert torch.equal(weights, weights.view(5, 3)[:, :1].expand(5, 3).flatten())
    assert DropEqualGroups(0.25).weights(rollout(5, 3), Scores(rewards)).view(5, 3)[4, 0] == 0.0


@pytest.mark.parametrize(("keep", "expected"), [("best", {1}), ("best_worst", {1, 0})])
def test_extremes_of_the_sheet(keep: Any, expected: set[int]) -> None:
    rewards = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7])
    weights = PolicyFiltration(keep).weights(rollout(1, 5), Scores(rewards))
    assert {*weights.nonzero().flatten().tolist()} == expected
    assert {*weights.tolist()} == {0.0, 1.0}


def test_the_best_and_any_other_one_by_the_random_numbers_of_the_run() -> None:
    rewards = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7]).repeat(200)
    torch.manual_seed(1)
    first = PolicyFiltration("best_random").weights(rollout(200, 5), Scores(rewards))
    torch.manual_seed(1)
    assert torch.equal(PolicyFiltration("best_random").weights(rollout(200, 5), Scores(rewards)), first)
    kept = first.view(200, 5)
    assert (kept.sum(1) == 2).all()  # never the best twice
    assert (kept[:, 1] == 1).all()
    assert (kept.sum(0) > 20).all()  # of 50 on average


@pytest.mark.parametrize("keep", ["best_random", "best_worst"])
def test_of_two_responses_both_are_kept(keep: Any) -> None:
    rewards = torch.tensor([0.2, 0.4, 0.3, 0.3])
    assert PolicyFiltration(keep).weights(rollout(2, 2), Scores(rewards)).tolist() == [1.0] * 4


@pytest.mark.parametrize("keep", ["best", "best_random", "best_worst"])
def test_a_response_without_a_reward_is_never_kept(keep: Any) -> None:
    nan = torch.nan
    rewards = torch.tensor([nan, 0.5, nan, nan, nan, nan, 2.0, 1.0, nan])
    weights = PolicyFiltration(keep).weights(rollout(3, 3), Scores(rewards)).view(3, 3).tolist()
    assert weights[:2] == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert weights[2] == [1.0, 0.0 if keep == "best" else 1.0, 0.0]


def test_another_choice_is_refused() -> None:
    keep: Any = "worst"
    with pytest.raises(ValueError, match="PolicyFiltration.keep is 'worst'; expected best, best_random or best_worst"):
        PolicyFiltration(keep)


def test_groups_that_win_or_lose_nearly_always_are_left_out() -> None:
    win, loss, tie, nan = 0.9, 0.2, 0.5, torch.nan
    # skews 3/5 (at the limit), 4/5, 3/4 of those with a reward, 0 of none, 1 of defeats
    groups = [
        [win, win, win, win, loss],
        [win, win, win, win, tie],
        [loss, loss, loss, tie, nan],
        [nan, nan, nan, nan, nan],
        [loss, loss, loss, loss, loss],
    ]
    found = DropSkewedGroups().weights(rollout(5, 5), Scores(torch.tensor(groups).flatten())).view(5, 5)
    assert found[:, 0].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert torch.equal(found, found[:, :1].expand(5, 5))
    shifted = Scores(torch.tensor(groups).flatten() - 0.5)
    assert torch.equal(DropSkewedGroups(parity=0.0).weights(rollout(5, 5), shifted).view(5, 5), found)
    assert DropSkewedGroups(max_skew=1.0).weights(rollout(5, 5), shifted).min() == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_skew": 1.5}, r"DropSkewedGroups.max_skew is 1.5; expected a number in \[0, 1\]"),
        ({"parity": float("inf")}, "DropSkewedGroups.parity is inf; expected a finite number"),
    ],
)
def test_settings_of_skew_that_cannot_work_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropSkewedGroups(**settings)
