from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.rewards.shapers.top_group_length import TopGroupLength
from prl.types import Scores
from tests.helpers.groups import in_groups
from tests.helpers.records import ragged_mask
from tests.helpers.two_processes import in_two_processes


def shaped(shaper: TopGroupLength, rewards: list[float], lengths: list[int], per_prompt: int) -> Tensor:
    return shaper(Scores(torch.tensor(rewards)), in_groups(ragged_mask(lengths), per_prompt)).rewards


def test_the_figures() -> None:
    found = shaped(TopGroupLength(fraction=1.0), [1.0, 1.0, 1.0], [100, 200, 300], 3)
    assert found.tolist() == pytest.approx([0.863738, 0.7, 0.536262], abs=1e-6)
    # Wrong responses are in neither mean nor deviation, and stay 0 however short.
    mixed = shaped(TopGroupLength(fraction=1.0), [1.0, 0.0, 1.0, 1.0, 0.0], [100, 1, 200, 300, 900], 5)
    assert mixed.tolist() == pytest.approx([0.863738, 0.0, 0.7, 0.536262, 0.0], abs=1e-6)


def test_one_correct_response_and_equal_lengths_are_at_the_mean() -> None:
    found = shaped(TopGroupLength(fraction=1.0), [0.0, 1.0, 1.0, 1.0], [4, 9, 5, 5], 2)
    assert found.tolist() == pytest.approx([0.0, 0.7, 0.7, 0.7], abs=1e-6)


@given(
    rewards=st.lists(st.sampled_from([0.0, 1.0, 0.3, float("nan")]), min_size=8, max_size=8),
    lengths=st.lists(st.integers(1, 9), min_size=8, max_size=8),
)
def test_a_fraction_or_an_alpha_of_0_changes_nothing(rewards: list[float], lengths: list[int]) -> None:
    # 0.49 of two prompts are none: the floor
    for shaper in (
        TopGroupLength(fraction=0.0),
        TopGroupLength(fraction=1.0, alpha=0.0),
        TopGroupLength(fraction=0.49),
    ):
        found = shaped(shaper, rewards, lengths, 4)
        assert torch.equal(found.nan_to_num(-1), torch.tensor(rewards).nan_to_num(-1))


def test_the_prompts_with_the_largest_share_are_shaped_and_missing_rewards_are_in_no_share() -> None:
    nan = float("nan")
    rewards = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, nan, nan, nan, 1.0, 1.0, nan]  # shares 1/3, 2/3, none, 1
    lengths = [2, 3, 4] * 4
    found = shaped(TopGroupLength(fraction=1 / 3), rewards, lengths, 3)
    moved = [n for n, (old, new) in enumerate(zip(rewards, found.tolist(), strict=True)) if old == old and old != new]
    assert moved == [9, 10]
    assert found.isnan().tolist() == [each != each for each in rewards]
    two = shaped(TopGroupLength(fraction=2 / 3), rewards, lengths, 3)
    assert [n for n, new in enumerate(two.tolist()) if rewards[n] == 1 and new != 1] == [3, 4, 9, 10]


def test_a_fraction_of_many_prompts_is_counted_without_rounding() -> None:
    found = shaped(TopGroupLength(fraction=0.29), [1.0] * 100, [3] * 100, 1)  # 0.29 * 100 is 28.999999999999996
    assert int((found < 1).sum()) == 29
    assert (found[:29] < 1).all()  # of equal shares the first ones


def everything() -> tuple[list[float], list[int]]:
    """Seven prompts of four responses, whose shares are all unequal or tied at 1."""
    generator = torch.Generator().manual_seed(0)
    right = [4, 1, 3, 2, 4, 0, 4]
    rewards = [float(n < number) for number in right for n in range(4)]
    return rewards, torch.randint(1, 40, (28,), generator=generator).tolist()


def shared(process: int) -> list[Tensor]:
    rewards, lengths = everything()
    rows = slice(0, 8) if process == 0 else slice(8, None)  # two prompts and five
    return [shaped(TopGroupLength(fraction), rewards[rows], lengths[rows], 4) for fraction in (0.2, 0.45, 0.6, 1.0)]


def test_prompts_are_ranked_over_all_processes(tmp_path: Path) -> None:
    rewards, lengths = everything()
    for fraction, first, second in zip((0.2, 0.45, 0.6, 1.0), *in_two_processes(shared, tmp_path), strict=True):
        assert torch.equal(torch.cat([first, second]), shaped(TopGroupLength(fraction), rewards, lengths, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopGroupLength(fraction=1.1), r"TopGroupLength.fraction is 1.1; expected a number in \[0, 1\]"),
        (lambda: TopGroupLength(alpha=-0.1), "TopGroupLength.alpha is -0.1; expected 0 or more"),
        (lambda: TopGroupLength(correct_above=float("nan")), "TopGroupLength.correct_above is nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], TopGroupLength], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
