import torch

from prl.rollouts.filters.equal_groups import DropEqualGroups
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
