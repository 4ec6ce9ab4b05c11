import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.advantages.base import TokenRewards
from prl.advantages.group import GroupNormalized
from prl.advantages.leave_one_out import LeaveOneOut
from prl.types import Scores
from tests.helpers.groups import advantages, in_groups
from tests.helpers.records import ragged_mask

REWARDS = st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6)


def test_of_two_responses_it_is_the_difference() -> None:
    # The check of P3O (2310.00212): RLOO with k = 2 is r1 - r2.
    found = advantages(LeaveOneOut(), [1.2, 0.4, -3.0, 5.0], 2)
    assert found[:, 0].tolist() == pytest.approx([0.8, -0.8, -8.0, 8.0], abs=1e-6)
    assert torch.equal(found, found[:, :1].expand(4, 3))


@given(rewards=REWARDS, per_prompt=st.sampled_from([2, 3, 6]))
def test_it_is_the_centred_reward_times_n_over_n_minus_1(rewards: list[float], per_prompt: int) -> None:
    centred = advantages(GroupNormalized(deviation="none"), rewards, per_prompt)
    found = advantages(LeaveOneOut(), rewards, per_prompt)
    torch.testing.assert_close(found, centred * per_prompt / (per_prompt - 1), atol=2e-6, rtol=2e-6)


@given(rewards=REWARDS, missing=st.sets(st.integers(0, 5)))
def test_each_is_held_against_the_others_that_have_a_reward(rewards: list[float], missing: set[int]) -> None:
    mask = ragged_mask([0 if row in missing else 2 for row in range(6)], 3)
    found = advantages(LeaveOneOut(), rewards, 3, mask)
    for row in range(6):
        others = [rewards[i] for i in range(row - row % 3, row - row % 3 + 3) if i != row and i not in missing]
        alone = row in missing or not others
        expected = 0.0 if alone else rewards[row] - sum(others) / len(others)
        assert found[row].tolist() == pytest.approx([expected * float(counts) for counts in mask[row]], abs=2e-6)


def test_a_prompt_with_one_rewarded_response_teaches_nothing() -> None:
    found = advantages(LeaveOneOut(), [7.0, 0.0, 0.0, 1.0], 2, ragged_mask([2, 0, 0, 0], 2))
    assert found.tolist() == [[0.0, 0.0]] * 4


def test_the_kl_in_the_reward_is_part_of_a_responses_reward() -> None:
    mask = ragged_mask([2, 1], 2)
    old = torch.tensor([[1.0, 2.0], [5.0, 50.0]])  # 3 nats against 5
    signal = TokenRewards(torch.zeros(2), None, old, torch.zeros(2, 2), mask, 1.0, "k1")
    found = LeaveOneOut()(signal, Scores(torch.zeros(2)), in_groups(mask, 2), None)
    assert found.advantages.tolist() == [[2.0, 2.0], [-2.0, 0.0]]
    assert found.returns is None
