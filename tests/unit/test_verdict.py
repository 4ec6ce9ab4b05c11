import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.verdict import Verdict, agreement, has_winner, wins

margins = st.floats(allow_nan=False, allow_infinity=False, width=32)
moderate = st.floats(-30, 30, width=32)


def verdict(ab: float, ba: float) -> Verdict:
    return Verdict(torch.tensor([ab]), torch.tensor([ba]))


@given(margins, margins)
def test_debiased_probabilities_of_both_sides_sum_to_exactly_one(ab, ba) -> None:
    assert (verdict(ab, ba).win_prob + verdict(ba, ab).win_prob).item() == 1.0


def test_both_sides_sum_to_exactly_one_over_a_dense_range() -> None:
    # Many values at once: plain sigmoid(z) + sigmoid(-z) misses one by a bit for one value in five.
    ab, ba = torch.randn(2, 200_000) * 6
    total = Verdict(ab, ba).win_prob + Verdict(ba, ab).win_prob
    assert torch.equal(total, torch.ones(200_000))


@given(margins, margins)
def test_probabilities_are_probabilities(ab, ba) -> None:
    for prob in (verdict(ab, ba).win_prob, verdict(ab, ba).mean_prob):
        assert 0 <= prob.item() <= 1


@given(moderate, moderate)
def test_win_prob_is_the_sigmoid_of_the_debiased_margin(ab, ba) -> None:
    expected = torch.sigmoid(torch.tensor((ab - ba) / 2, dtype=torch.float64))
    # 2e-6: float32 spacing of a margin near 30, 1.9e-6, times the slope of sigma (at most a quarter), twice
    assert verdict(ab, ba).win_prob.item() == pytest.approx(expected.item(), abs=2e-6)


@given(moderate, moderate)
def test_mean_prob_of_both_sides_sums_to_one(ab, ba) -> None:
    total = (verdict(ab, ba).mean_prob + verdict(ba, ab).mean_prob).item()
    assert total == pytest.approx(1.0, abs=2.4e-7)  # a few float32 roundings of numbers near one


@given(margins)
def test_a_response_against_itself_is_exactly_one_half(margin) -> None:
    same = verdict(margin, margin)
    assert same.win_logit.item() == 0.0
    assert same.win_prob.item() == 0.5


def test_a_comparison_is_judged_when_both_orders_are() -> None:
    nan = float("nan")
    found = Verdict(torch.tensor([1.0, nan, 1.0, nan]), torch.tensor([1.0, 1.0, nan, nan]))
    assert found.judged.tolist() == [True, False, False, False]


@given(moderate, moderate, moderate)
def test_an_additive_position_bias_cancels(ab, ba, bias) -> None:
    biased = verdict(ab + bias, ba + bias)
    assert biased.win_logit.item() == pytest.approx((ab - ba) / 2, abs=1e-5)  # float32 spacing near 60 is 3.8e-6
    assert biased.position_bias.item() == pytest.approx((ab + ba) / 2 + bias, abs=1e-5)


def test_order_effects_of_hand_made_margins() -> None:
    #             fair   first always, second always, half fair
    ab = torch.tensor([1.0, 2.0, -2.0, 3.0])
    ba = torch.tensor([-1.0, 2.0, -2.0, -1.0])
    found = Verdict(ab, ba)
    assert found.win_logit.tolist() == [1.0, 0.0, 0.0, 2.0]
    assert found.position_bias.tolist() == [0.0, 2.0, -2.0, 1.0]
    assert found.flipped.tolist() == [False, True, True, False]
    gaps = [0.0, 2 * 0.8807970779778823 - 1, 1 - 2 * 0.11920292202211755, 0.9525741268224334 + 0.2689414213699951 - 1]
    assert found.order_gap.tolist() == pytest.approx(gaps, abs=2e-7)


def test_no_opinion_is_no_flip() -> None:
    assert not verdict(0.0, 0.0).flipped.item()


def test_verdict_checks_shapes() -> None:
    with pytest.raises(ValueError, match=r"margin_ba has shape \(2,\), expected \(3,\)"):
        Verdict(torch.zeros(3), torch.zeros(2))


def test_a_tie_is_half_a_win_and_no_comparison_is_none() -> None:
    found = wins(torch.tensor([2.0, -0.1, 0.0, math.nan]))
    assert found[:3].tolist() == [1.0, 0.0, 0.5]
    assert found[3].isnan()


@pytest.mark.parametrize("target", [0.0, 0.3, 0.7, 1.0])
def test_a_judge_without_an_opinion_is_half_right_whichever_side_is_better(target) -> None:
    assert agreement(torch.zeros(1), torch.tensor([target])).item() == 0.5


@given(st.lists(st.tuples(moderate, st.sampled_from([0.0, 0.2, 0.8, 1.0])), min_size=1, max_size=8))
def test_swapping_both_responses_changes_no_agreement(pairs) -> None:
    logit, target = torch.tensor(pairs).T
    assert torch.equal(agreement(logit, target), agreement(-logit, 1 - target))


def test_a_label_of_one_half_names_no_winner() -> None:
    assert has_winner(torch.tensor([0.0, 0.49, 0.5, 0.51, 1.0])).tolist() == [True, True, False, True, True]


def test_a_pair_in_one_order_has_an_estimate_and_no_second_margin() -> None:
    nan = float("nan")
    found = Verdict(
        torch.tensor([1.0, 2.0, nan, nan]),
        torch.tensor([-1.0, nan, 3.0, nan]),
        torch.tensor([nan, 1.5, -2.5, nan]),
    )
    assert found.judged.tolist() == [True, True, True, False]
    assert found.both_orders.tolist() == [True, False, False, False]
    assert found.one_order.tolist() == [False, True, True, False]
    assert found.win_logit[:3].tolist() == [1.0, 1.5, -2.5]
    assert sorted(each for each in found.readings.tolist() if each == each) == [-1.0, 1.0, 2.0, 3.0]
    assert found.readings.isnan().sum() == 2  # the failed pair's
    assert found.win_prob[1:3].tolist() == pytest.approx([1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(2.5))])
    assert torch.equal(found.mean_prob[1:3], found.win_prob[1:3])
    assert found.order_gap.isnan().tolist() == found.position_bias.isnan().tolist() == [False, True, True, True]
    assert not found.flipped[1:].any()


def test_swapping_pairs_swaps_margins_and_the_sign_of_estimates() -> None:
    nan = float("nan")
    found = Verdict(torch.tensor([1.0, 2.0]), torch.tensor([-0.5, nan]), torch.tensor([nan, 1.5]))
    back = found.swapped(torch.tensor([True, True]))
    assert torch.equal(back.win_logit, -found.win_logit)
    assert torch.equal(found.win_prob + back.win_prob, torch.ones(2))
    assert back.margin_ba.tolist() == [1.0, 2.0]
    kept = found.swapped(torch.tensor([False, False]))
    assert torch.equal(kept.win_logit, found.win_logit)
    assert torch.equal(found.select(torch.tensor([1])).win_logit, torch.tensor([1.5]))
    assert found.to("cpu").one_order.tolist() == [False, True]
