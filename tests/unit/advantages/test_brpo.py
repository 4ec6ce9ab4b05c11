"""BRPO by enumeration: every response of a group is the reference once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.advantages.base import TokenRewards
from prl.advantages.brpo import BRPO
from prl.types import PromptBatch, Scores
from tests.helpers.groups import advantages, in_groups
from tests.helpers.records import answered, ragged_mask
from tests.helpers.tiny import LengthJudge


def against(reference: int, lengths: list[int]) -> Tensor:
    """Advantages of texts of these lengths under a judge of lengths, against one of them: [B]."""
    ids = torch.ones(1, 1, dtype=torch.long)
    batch = PromptBatch(ids, ids.bool(), [()], [()]).repeat(len(lengths))
    texts = ["x" * length for length in lengths]
    rollout = answered(batch, texts).anchored([(texts[reference],)] * len(texts))
    scores = LengthJudge().score(rollout)
    zeros = torch.zeros(len(texts), 1)
    signal = TokenRewards(scores.rewards, None, zeros, zeros, rollout.response_mask, 0.0, "k1")
    return BRPO()(signal, scores, rollout, None).advantages[:, 0]


def test_a_strict_order_of_four() -> None:
    every_draw = torch.stack([against(reference, [1, 2, 3, 4]) for reference in range(4)])
    assert every_draw.tolist() == [
        [0.0, 1.0, 1.0, 1.0],
        [-1.0, 0.0, 1.0, 1.0],
        [-1.0, -1.0, 0.0, 1.0],
        [-1.0, -1.0, -1.0, 0.0],
    ]
    assert every_draw.mean() == 0  # in expectation over the draw of the reference
    assert every_draw.mean(0).tolist() == [-0.75, -0.25, 0.25, 0.75]  # and better responses have more


@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=6))
def test_over_all_draws_the_advantages_of_a_group_add_up_to_0(lengths: list[int]) -> None:
    every_draw = torch.stack([against(reference, lengths) for reference in range(len(lengths))])
    assert every_draw.sum() == 0
    assert torch.equal(every_draw, -every_draw.T)


def test_parity_is_that_of_the_reward_and_a_response_without_a_reward_has_none() -> None:
    found = advantages(BRPO(parity=0.0), [-0.1, 3.0, 0.0, 9.0], 4, ragged_mask([2, 1, 2, 0], 2))
    assert found.tolist() == [[-1.0, -1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="BRPO.parity is nan; expected a finite number"):
        BRPO(float("nan"))


def test_the_kl_in_the_reward_is_added_after_its_mean() -> None:
    mask = ragged_mask([2, 1, 0], 2)
    old = torch.tensor([[1.0, 2.0], [5.0, 50.0], [70.0, 70.0]])  # 3 nats against 5
    rewards = torch.tensor([0.9, 0.1, 0.0])
    signal = TokenRewards(rewards, None, old, torch.zeros(3, 2), mask, 0.5, "k1")
    found = BRPO()(signal, Scores(rewards), in_groups(mask, 3), None).advantages
    assert found.tolist() == [[1.5, 1.5], [-1.5, 0.0], [0.0, 0.0]]
