import pytest
import torch
from torch import Tensor

from prl.advantages.base import TokenRewards
from prl.advantages.group import GroupNormalized
from prl.types import PromptBatch, Rollout, Scores
from tests.helpers.records import ragged_mask


def advantages(rewards: list[float], per_prompt: int, mask: Tensor | None = None, **settings) -> Tensor:
    rows, width = len(rewards), 3
    mask = torch.ones(rows, width, dtype=torch.bool) if mask is None else mask
    ids = torch.ones(rows // per_prompt, 1, dtype=torch.long)
    batch = PromptBatch(ids, ids.bool(), [()] * len(ids), [()] * len(ids)).repeat(per_prompt)
    rollout = Rollout(batch, mask.long(), mask, mask[:, 0].clone(), [""] * rows, width)
    zeros, given = torch.zeros(rows, width), torch.tensor(rewards)
    signal = TokenRewards(given, None, zeros, zeros, mask, 0.0, "k1")
    return GroupNormalized(**settings)(signal, Scores(given), rollout, None).advantages


# Unbiased: the figures of Think-RM (2505.16265), which are those of GRPO for a consistent matrix of preferences.
EXPECTED = {
    "unbiased": [0.860073, -0.286691, -1.290110, 0.716728],
    "biased": [0.993127, -0.331042, -1.489690, 0.827606],  # the same times sqrt(4 / 3)
    "none": [0.6, -0.2, -0.9, 0.5],
}


@pytest.mark.parametrize(("deviation", "expected"), EXPECTED.items())
def test_a_group_by_hand(deviation: str, expected: list[float]) -> None:
    found = advantages([1.0, 0.2, -0.5, 0.9], 4, deviation=deviation, epsilon=0.0)
    assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(found, found[:, :1].expand(4, 3))


def test_trl_and_multi_objective_grpo_agree() -> None:
    # R = (0.55, 0.65, 0.65) -> (-1.154701, 0.577350, 0.577350): the check of 2503.21819.
    assert advantages([0.55, 0.65, 0.65], 3, epsilon=0.0)[:, 0].tolist() == pytest.approx(
        [-1.154701, 0.577350, 0.577350], abs=1e-5
    )
    rewards = torch.randn(6, 4)  # as TRL writes it: rewards.view(-1, n).std(1) + 1e-4
    trl = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(advantages(rewards.flatten().tolist(), 4)[:, 0].view(6, 4), trl, atol=1e-5, rtol=1e-5)


def test_shift_and_scale_of_a_prompts_rewards_do_not_matter_and_a_group_of_equals_has_none() -> None:
    plain = advantages([1.0, 0.0, 3.0, 5.0, 5.0, 5.0], 3, epsilon=0.0)
    assert torch.allclose(plain[:3], advantages([12.0, 10.0, 16.0, 0.0, 1.0, 2.0], 3, epsilon=0.0)[:3])
    assert advantages([5.0, 5.0, 5.0], 3).abs().max() == 0


def test_a_response_that_does_not_count_is_in_no_mean() -> None:
    mask = ragged_mask([3, 0, 2, 1, 0, 0], 3)
    found = advantages([1.0, 99.0, 3.0, 7.0, 0.0, 0.0], 3, mask, deviation="none")
    assert found.tolist() == [[-1.0] * 3, [0.0] * 3, [1.0, 1.0, 0.0], *[[0.0] * 3] * 3]


def test_the_kl_in_the_reward_is_part_of_a_responses_reward() -> None:
    mask = ragged_mask([2, 1], 2)
    ids = torch.ones(1, 1, dtype=torch.long)
    rollout = Rollout(PromptBatch(ids, ids.bool(), [()], [()]).repeat(2), mask.long(), mask, mask[:, 0], [""] * 2, 2)
    old = torch.tensor([[1.0, 2.0], [3.0, 50.0]])
    signal = TokenRewards(torch.zeros(2), None, old, torch.zeros(2, 2), mask, 1.0, "k1")
    found = GroupNormalized(deviation="none")(signal, Scores(torch.zeros(2)), rollout, None).advantages
    assert found.tolist() == [[0.0, 0.0], [0.0, 0.0]]  # 1 + 2 nats against 3
