import pytest
import torch

from prl.rollouts.filters.equal_groups import DropEqualGroups
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
