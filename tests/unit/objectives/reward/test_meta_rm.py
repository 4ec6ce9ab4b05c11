"""What MetaRM ascends on unlabelled responses, and what it leaves as it is."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.reward import BradleyTerry, Contrastive, GeneralPreference, MetaRM
from tests.helpers.records import pair_batch


def test_the_figure_of_three_responses() -> None:
    rewards = torch.tensor([0.2, 1.0, -0.5], dtype=torch.float64)
    assert MetaRM().ascended(rewards).item() == pytest.approx(0.483497, abs=1e-6)


@given(rewards=st.lists(st.floats(-3, 3), min_size=2, max_size=6), shift=st.floats(-2, 2), seed=st.integers(0, 99))
def test_only_differences_count_in_any_order(rewards: list[float], shift: float, seed: int) -> None:
    given = torch.tensor(rewards, dtype=torch.float64)
    found = MetaRM().ascended(given)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(MetaRM().ascended(given[order] + shift), found)
    torch.testing.assert_close(MetaRM().ascended(-given), found)
    assert MetaRM().ascended(2 * given) >= found
    pairs = len(rewards) * (len(rewards) - 1) / len(rewards) ** 2
    assert pairs / 2 <= found.item() + 1e-12 <= pairs + 1e-9  # every sigma lies between 1/2 and 1


def test_an_ascent_moves_rewards_apart_and_lets_equal_ones_be() -> None:
    rewards = torch.tensor([0.2, 1.0, -0.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(MetaRM().ascended(rewards), rewards)
    assert gradient[1] > 0 > gradient[2]
    assert gradient.sum().item() == pytest.approx(0, abs=1e-7)
    same = torch.ones(4, requires_grad=True)
    assert torch.autograd.grad(MetaRM().ascended(same), same)[0].tolist() == [0.0] * 4


def test_the_loss_is_that_of_the_other_objective() -> None:
    for parent in (BradleyTerry(), BradleyTerry(0.2)):
        batch = pair_batch(parent, 0)
        assert torch.equal(MetaRM(parent).loss(batch), parent.loss(batch))
    assert (MetaRM(eta=0.5, prompts=3).look_ahead, MetaRM(eta=0.5, prompts=3).unlabelled_prompts) == (0.5, 3)
    assert (MetaRM(eta=0.0).look_ahead, MetaRM(eta=0.0).unlabelled_prompts) == (0.0, 0)


def test_both_terms_of_the_paper_go_together() -> None:
    both = MetaRM(Contrastive(), eta=0.5)
    assert (both.dropout_passes, both.look_ahead) == (2, 0.5)
    other = Contrastive(MetaRM(eta=0.5))
    assert (other.dropout_passes, other.look_ahead) == (2, 0.5)
    rewards = torch.tensor([0.2, 1.0, -0.5], dtype=torch.float64)
    assert other.ascended(rewards).item() == pytest.approx(0.483497, abs=1e-6)
    with pytest.raises(NotImplementedError, match="BradleyTerry names a look_ahead, but has no ascended"):
        BradleyTerry().ascended(rewards)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eta": -1.0}, "MetaRM.eta is -1.0"),
        ({"eta": math.inf}, "MetaRM.eta is inf"),
        ({"prompts": 0}, "MetaRM.prompts is 0"),
        ({"objective": MetaRM()}, "MetaRM.objective is MetaRM, which looks ahead itself"),
        ({"objective": GeneralPreference()}, "is GeneralPreference, which gives embeddings and no rewards"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MetaRM(**settings)
