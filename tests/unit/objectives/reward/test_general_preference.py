"""The general preference model: figures by hand, its symmetry, and what its gradient does."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.reward import GeneralPreference, PairBatch
from prl.objectives.skew_symmetric import SkewSymmetric


def f64(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def pairs(chosen: torch.Tensor, rejected: torch.Tensor, target: float = 1.0, **more: Any) -> PairBatch:
    ones = torch.ones(1, len(chosen), dtype=torch.float64)
    given = {"chosen_rewards": chosen, "rejected_rewards": rejected, **more}
    return PairBatch(ones, ones.bool(), target * ones[0], **given)


def on_circle(degrees: float) -> torch.Tensor:
    return f64(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def test_the_figures_of_two_and_four_numbers() -> None:
    chosen, rejected = f64(1.0, 0.0), f64(0.6, 0.8)
    found = GeneralPreference(dim=2).loss(pairs(chosen, rejected))
    assert SkewSymmetric(2, 1.0).margin(chosen, rejected).item() == pytest.approx(0.8, abs=1e-12)
    assert found.item() == pytest.approx(0.000335, abs=1e-6)
    assert (-found).exp().item() == pytest.approx(0.999665, abs=1e-6)
    u, v = f64(1.0, 0.0, 0.5, 0.5), f64(0.6, 0.8, -0.2, 0.4)
    both = [SkewSymmetric(4, 1.0).margin(*pair).item() for pair in ((u, v), (v, u))]
    assert both == pytest.approx([1.1, -1.1], abs=1e-12)


def test_three_directions_beat_each_other_in_a_circle() -> None:
    u, v, w = (on_circle(degrees) for degrees in (0, 120, 240))
    for first, second in ((u, v), (v, w), (w, u)):
        score = SkewSymmetric(2, 1.0).margin(first, second)
        assert score.item() == pytest.approx(0.866025, abs=1e-6)
        assert SkewSymmetric(2, 0.1).margin(first, second).sigmoid().item() == pytest.approx(0.999827, abs=1e-6)


def test_the_score_is_that_of_the_operator_as_a_matrix() -> None:
    u, v = torch.randn(2, 7, 6, dtype=torch.float64)
    matrix = torch.zeros(6, 6, dtype=torch.float64)
    for place in (0, 2, 4):
        matrix[place, place + 1], matrix[place + 1, place] = -1, 1
    expected = ((u @ matrix.T) * v).sum(1)
    torch.testing.assert_close(SkewSymmetric(6, 1.0).margin(u, v), expected)
    weights = torch.randn(7, 3, dtype=torch.float64)
    scaled = matrix * (3 * weights.softmax(1)).repeat_interleave(2, 1)[:, :, None]
    expected = torch.einsum("nij,nj,ni->n", scaled, u, v)
    torch.testing.assert_close(SkewSymmetric(6, 1.0, prompt_head=True).margin(u, v, weights), expected)


numbers = st.floats(-8, 8, width=32)


@given(
    *(st.lists(numbers, min_size=9, max_size=9) for _ in range(2)),
    *(st.booleans(), st.booleans(), st.sampled_from([0.05, 0.1, 1.0, 3.0])),
)
def test_swapping_two_responses_turns_the_score_to_the_last_bit(
    one: list[float], other: list[float], normalize: bool, prompt_head: bool, tau: float
) -> None:
    operator = SkewSymmetric(6, tau, normalize, prompt_head)
    u, v = torch.tensor([one]), torch.tensor([other])
    blocks = operator.blocks(u + v, 16)
    assert torch.equal(operator.margin(u, v, blocks), -operator.margin(v, u, blocks))
    assert operator.margin(u, u, blocks).item() == 0
    loss = GeneralPreference(6, tau, normalize, prompt_head).loss(pairs(u, v, 0.5, prompt_blocks=blocks))
    turned = GeneralPreference(6, tau, normalize, prompt_head).loss(pairs(v, u, 0.5, prompt_blocks=blocks))
    torch.testing.assert_close(loss, turned)


def test_normalised_embeddings_have_no_length() -> None:
    u, v = torch.randn(2, 5, 4, dtype=torch.float64)
    plain, normal = SkewSymmetric(4, 0.3), SkewSymmetric(4, 0.3, normalize=True)
    lengths = u.norm(dim=1) * v.norm(dim=1)
    torch.testing.assert_close(normal.margin(u, v), plain.margin(u, v) / lengths)
    torch.testing.assert_close(normal.margin(7 * u, 0.2 * v), normal.margin(u, v))


def test_a_prompt_that_weighs_blocks_alike_is_no_prompt_head() -> None:
    u, v = torch.randn(2, 5, 4, dtype=torch.float64)
    alike = torch.full((5, 2), 3.0, dtype=torch.float64)
    torch.testing.assert_close(
        SkewSymmetric(4, 0.3, prompt_head=True).margin(u, v, alike), SkewSymmetric(4, 0.3).margin(u, v)
    )
    # The block that the prompt is about decides alone, in the limit.
    first = torch.tensor([[80.0, 0.0]], dtype=torch.float64).expand(5, 2)
    torch.testing.assert_close(
        SkewSymmetric(4, 0.3, prompt_head=True).margin(u, v, first),
        2 * SkewSymmetric(2, 0.3).margin(u[:, :2], v[:, :2]),
    )
    outputs = torch.arange(6.0)[None]
    assert SkewSymmetric(4, prompt_head=True).outputs == 6
    assert SkewSymmetric(4, prompt_head=True).blocks(outputs, 16).tolist() == [[1.0, 1.25]]  # over sqrt(16)
    assert SkewSymmetric(4).blocks(outputs, 16) is None


def test_gradients_move_the_score_towards_the_label() -> None:
    torch.manual_seed(0)
    chosen, rejected, blocks = (torch.randn(3, width, dtype=torch.float64) for width in (4, 4, 2))
    objective = GeneralPreference(4, 0.5, prompt_head=True, label_smoothing=0.1)

    def loss(*given: torch.Tensor) -> torch.Tensor:
        return objective.loss(pairs(given[0], given[1], 0.9, prompt_blocks=given[2])).sum()

    leaves = [each.requires_grad_() for each in (chosen, rejected, blocks)]
    torch.autograd.gradcheck(loss, leaves)
    plain = GeneralPreference(4, 0.5)
    (gradient,) = torch.autograd.grad(plain.loss(pairs(chosen, rejected)).sum(), [chosen])
    moved = chosen - 0.01 * gradient
    assert (plain.operator.margin(moved, rejected) > plain.operator.margin(chosen, rejected)).all()


def test_labels_are_smoothed_and_soft() -> None:
    chosen, rejected = torch.randn(2, 6, 4, dtype=torch.float64)
    margin = SkewSymmetric(4, 0.4).margin(chosen, rejected)
    found = GeneralPreference(4, 0.4, label_smoothing=0.1).loss(pairs(chosen, rejected, 0.8))
    share = 0.9 * 0.8 + 0.1 * 0.2
    expected = -share * margin.sigmoid().log() - (1 - share) * (-margin).sigmoid().log()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 3}, "GeneralPreference.dim is 3; expected an even number"),
        ({"dim": 0}, "GeneralPreference.dim is 0"),
        ({"tau": 0.0}, "GeneralPreference.tau is 0.0; expected a finite number above 0"),
        ({"tau": math.inf}, "GeneralPreference.tau is inf"),
        ({"dim": 2, "prompt_head": True}, "dim 2 is a single one; raise dim to 4"),
        ({"label_smoothing": 0.5}, "GeneralPreference.label_smoothing is 0.5"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GeneralPreference(**settings)


def test_blocks_belong_to_a_prompt_head() -> None:
    u, v = torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match="prompt_head is True, and the blocks of a prompt are None"):
        SkewSymmetric(4, prompt_head=True).margin(u, v)
    with pytest.raises(ValueError, match="prompt_head is False"):
        SkewSymmetric(4).margin(u, v, u[:, :2])
