from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.advantages.group import GroupNormalized
from prl.advantages.ngrpo import NGRPO
from tests.helpers.groups import advantages
from tests.helpers.records import ragged_mask

# From the formula of compute_ngrpo_outcome_advantage in the authors' code.
FIGURES = [
    ([0.0, 0.0, 0.0, 0.0], [-0.447213] * 4),
    ([1.0, 0.0, 0.0, 0.0], [1.095443, -0.730295, -0.730295, -0.730295]),
    ([1.0, 1.0, 1.0, 1.0], [0.0] * 4),
]


@pytest.mark.parametrize(("rewards", "expected"), FIGURES)
def test_the_authors_figures(rewards: list[float], expected: list[float]) -> None:
    found = advantages(NGRPO(), rewards, 4)
    assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(found, found[:, :1].expand(4, 3))


def test_equal_rewards_give_0_without_an_epsilon_too() -> None:
    assert advantages(NGRPO(epsilon=0.0), [1.0] * 4, 4).tolist() == [[0.0] * 3] * 4


def test_without_a_virtual_response_the_figures_are_those_of_grpo() -> None:
    found = advantages(NGRPO(virtual=0), [1.0, 0.0, 0.0, 0.0], 4)[:, 0]
    assert found.tolist() == pytest.approx([1.499997, -0.499999, -0.499999, -0.499999], abs=1e-6)


@given(
    rewards=st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6),
    lengths=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    max_reward=st.floats(-5, 5),
)
def test_without_a_virtual_response_it_is_grpo_to_the_bit(rewards: list[float], lengths: list[int], max_reward) -> None:
    mask = ragged_mask(lengths, 4)
    grpo = advantages(GroupNormalized(epsilon=1e-4), rewards, 3, mask)
    assert torch.equal(advantages(NGRPO(0, max_reward, epsilon=1e-4), rewards, 3, mask), grpo)


@given(
    rewards=st.lists(st.floats(0, 1, width=16), min_size=4, max_size=4), copies=st.integers(1, 3), lost=st.booleans()
)
def test_the_virtual_responses_are_rows_that_grpo_would_see(rewards: list[float], copies: int, lost: bool) -> None:
    mask = ragged_mask([2, 1, 2, 0 if lost else 1], 2)
    with_rows = torch.cat([mask, torch.ones(copies, 2, dtype=torch.bool)])
    grpo = advantages(GroupNormalized(epsilon=1e-6), [*rewards, *[1.0] * copies], 4 + copies, with_rows)
    torch.testing.assert_close(advantages(NGRPO(copies), rewards, 4, mask), grpo[:4], atol=1e-5, rtol=1e-5)


@given(rewards=st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4))
def test_a_prompt_is_pushed_down_unless_all_its_responses_are_right(rewards: list[float]) -> None:
    found = advantages(NGRPO(), rewards, 4)[:, 0]
    assert (float(found.sum()) < -1e-3) == (0.0 in rewards)
    assert bool((found[torch.tensor(rewards) == 0] < 0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"virtual": -1}, "NGRPO.virtual is -1; expected 0 or more"),
        ({"max_reward": float("inf")}, "NGRPO.max_reward is inf; expected a finite number"),
        ({"epsilon": -1.0}, "NGRPO.epsilon is -1.0; expected 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NGRPO(**settings)
