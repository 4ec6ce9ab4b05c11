import math

import pytest
import torch

from prl.masking import masked_mean, masked_sum, masked_var, weighted_mean, whiten
from tests.helpers.records import ragged_mask

MASK = ragged_mask([3, 1, 2])


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reduction", [masked_sum, masked_mean, masked_var, whiten])
def test_masked_places_may_hold_anything(reduction, rubbish) -> None:
    values = torch.randn(3, 3)
    assert torch.equal(reduction(values.masked_fill(~MASK, rubbish), MASK), reduction(values, MASK))


def test_reductions_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0], [5.0, 6.0, 9.0]])
    assert masked_sum(values, MASK).item() == 21.0
    assert masked_mean(values, MASK).item() == 3.5
    assert masked_var(values, MASK).item() == 3.5  # of 1 to 6, unbiased


def test_whitened_tokens_have_mean_zero_and_variance_one() -> None:
    white = whiten(torch.randn(3, 3) * 7 + 100, MASK)
    assert masked_mean(white, MASK).item() == pytest.approx(0.0, abs=1e-5)  # 100 / 7 in float32: error 1e-6
    assert masked_var(white, MASK).item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(white[~MASK], torch.zeros(3))


def test_too_few_tokens() -> None:
    nothing, one = torch.zeros(2, 2, dtype=torch.bool), ragged_mask([1, 0], 2)
    values = torch.tensor([[5.0, 1.0], [2.0, 3.0]])
    assert masked_mean(values, nothing).item() == 0.0
    assert masked_var(values, nothing).item() == 0.0
    assert torch.equal(whiten(values, nothing), torch.zeros(2, 2))
    assert masked_var(values, one).item() == 0.0
    assert torch.equal(whiten(values, one), torch.zeros(2, 2))


def test_equal_advantages_become_zero_not_huge() -> None:
    assert torch.equal(whiten(torch.full((3, 3), 0.5), MASK), torch.zeros(3, 3))


def test_means_carry_no_gradient_but_sums_do() -> None:
    values = torch.ones(3, 3, requires_grad=True)
    assert not masked_mean(values, MASK).requires_grad
    masked_sum(values, MASK).backward()
    assert torch.equal(values.grad, MASK.float())


def test_weighted_mean_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([1.0, 2.0, 0.5]))
    assert mean.item() == pytest.approx(8 / 3.5)
    mean.backward()
    assert values.grad.tolist() == pytest.approx([1 / 3.5, 2 / 3.5, 0.5 / 3.5])


@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_weights_of_one_leave_every_bit_of_mean_and_gradient(count) -> None:
    plain = torch.randn(count, requires_grad=True)
    weighted = plain.detach().clone().requires_grad_()
    plain.exp().mean().backward()
    result = weighted_mean(weighted.exp(), torch.ones(count))
    result.backward()
    assert torch.equal(result, plain.exp().mean())
    assert torch.equal(weighted.grad, plain.grad)


@pytest.mark.parametrize("scale", [3e38, 1.0, 1e-44])
def test_weights_at_the_ends_of_float32_still_mean_their_ratios(scale: float) -> None:
    weights = torch.tensor([1.0, 0.5, 1.0, 0.0]) * scale
    assert weighted_mean(torch.tensor([1.0, 2.0, 6.0, 100.0]), weights).item() == pytest.approx(8 / 2.5, rel=0.1)
