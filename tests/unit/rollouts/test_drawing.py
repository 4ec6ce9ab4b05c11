"""Draws of tokens by numbers from 0 to 1."""

import math

import pytest
import torch

from prl.rollouts.drawing import BLOCK, draw_tokens, inverse_cdf, uniform_table


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    draws = torch.arange(1000, dtype=torch.float64) / 1000
    drawn = inverse_cdf(probabilities.expand(1000, -1), draws)
    counts = drawn.bincount(minlength=6)
    assert (counts - 1000 * probabilities).abs().max() <= 1
    assert counts[probabilities == 0].sum() == 0
    edge = inverse_cdf(probabilities[None], torch.tensor([math.nextafter(1.0, 0.0)], dtype=torch.float64))
    assert edge.item() == 4


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_blocks_choose_what_one_sum_over_all_tokens_chooses(size) -> None:
    """`bisect` over Python's own sums, token by token."""
    from bisect import bisect_right
    from itertools import accumulate

    weights = torch.randn(20, size, dtype=torch.float64).mul(3).exp()
    draws = uniform_table(20, 1)[:, 0]
    drawn = inverse_cdf(weights, draws)
    for row, draw, found in zip(weights.tolist(), draws.tolist(), drawn.tolist(), strict=True):
        sums = list(accumulate(row))
        assert found == bisect_right(sums, draw * sums[-1])


def test_a_token_without_probability_is_never_drawn_at_any_edge() -> None:
    weights = torch.zeros(7, 4 * BLOCK)
    for row, place in enumerate((0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3, 4 * BLOCK - 2, 4 * BLOCK - 1)):
        weights[row, place] = 1e-3
    expected = weights.argmax(-1)
    for draw in (0.0, 1e-300, 0.5, math.nextafter(1.0, 0.0), 1.0):
        assert torch.equal(inverse_cdf(weights, torch.full((7,), draw, dtype=torch.float64)), expected)


def test_temperature_is_that_of_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 3.0])
    draws = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    for temperature in (0.5, 1.0, 4.0):
        shares = draw_tokens(logits.expand(2000, -1), temperature, draws).bincount(minlength=3) / 2000
        assert (shares - (logits / temperature).softmax(-1)).abs().max() < 1e-3


def test_logits_that_are_no_numbers_give_a_token() -> None:
    bad = [[math.nan, 1.0, -1e30], [math.inf, 0.0, 0.0], [-math.inf, -math.inf, 0.0], [math.nan] * 3, [-math.inf] * 3]
    drawn = draw_tokens(torch.tensor(bad), 0.3, torch.full((5,), 0.9, dtype=torch.float64))
    assert drawn[1:3].tolist() == [0, 2]
    assert ((drawn >= 0) & (drawn < 3)).all()


def test_large_vocabularies_in_half_precision_keep_their_distribution() -> None:
    """The draw lies within rounding of float32 of the sum in float64 up to the drawn token."""
    logits = torch.randn(16, 49_152).mul(2).bfloat16()
    draws = uniform_table(16, 1)[:, 0]
    drawn = draw_tokens(logits, 1.0, draws)
    sums = logits.double().softmax(-1).cumsum(-1)
    upper = sums.gather(1, drawn[:, None])[:, 0]
    lower = upper - logits.double().softmax(-1).gather(1, drawn[:, None])[:, 0]
    assert ((lower - 1e-6 <= draws) & (draws <= upper + 1e-6)).all()


def test_the_table_is_that_of_the_global_generator_or_a_given_one() -> None:
    torch.manual_seed(5)
    table = uniform_table(3, 4)
    assert torch.equal(table, uniform_table(3, 4, torch.Generator().manual_seed(5)))
    assert table.dtype == torch.float64
