"""The second order of near comparisons only: which readings are made, what is estimated, and the fitted threshold."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch

from prl.config import Validation
from prl.data import PreferencePair
from prl.evaluation.judge.report import judge_report
from prl.evaluation.policy.report import policy_report
from prl.judge import AdaptiveOrder, BradleyTerryJudge, StoredJudge
from prl.judge.adaptive import a_is_first, fit_threshold
from prl.judge.base import Comparison
from prl.judge.examination import judge_pairs
from prl.rewards.base import against_anchors
from prl.rl.health_monitor import _margins
from prl.rl.metrics import _of_sources
from prl.rl.validation import PolicyValidation
from prl.types import PromptBatch, Scores
from prl.verdict import Verdict
from tests.helpers.records import answered
from tests.helpers.tiny import LengthJudge, PlantedJudge, PositionJudge

NAN = float("nan")


def pair(prompt: str, chosen: str, rejected: str, preference: float = 1.0) -> PreferencePair:
    return PreferencePair([{"role": "user", "content": prompt}], chosen, rejected, preference)


class UnsureJudge(PlantedJudge):
    """Longer is better, the first place too, and each reading has an error of its own; it keeps what it was asked."""

    def __init__(self, bias: float = 0.5, fails: str = "") -> None:
        super().__init__()
        self.bias, self.fails = bias, fails
        self.asked: list[Comparison] = []

    def rule(self, first: str, second: str) -> float:
        if self.fails and self.fails in first + second:
            return NAN
        noise = hashlib.sha256(f"{first}|{second}".encode()).digest()[0] / 255 - 0.5
        return len(first) - len(second) + self.bias + noise

    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        self.asked += comparisons
        return super().margins(comparisons)


def comparisons(number: int = 200) -> tuple[list[Any], list[str], list[str]]:
    """Pairs with lengths that differ by -4 to 4; some are equal."""
    prompts = [({"role": "user", "content": f"prompt {n % 50}"},) for n in range(number)]
    a = ["x" * (1 + n % 5) + str(n % 3) for n in range(number)]
    b = ["x" * (1 + n % 7 % 5) + str(n % 2) for n in range(number)]
    assert any(map(str.__eq__, a, b))
    return prompts, a, b


def test_who_wrote_a_response_and_where_it_stands_change_no_reading_and_no_verdict() -> None:
    prompts, a, b = comparisons()
    judges = UnsureJudge(), UnsureJudge()
    there = AdaptiveOrder(judges[0], threshold=1.5, offset=0.4).compare(prompts, a, b)
    back = AdaptiveOrder(judges[1], threshold=1.5, offset=0.4).compare(prompts, b, a)
    assert judges[0].asked == judges[1].asked
    assert torch.equal(there.win_logit, -back.win_logit)
    assert torch.equal(there.win_prob + back.win_prob, torch.ones(len(a)))
    assert torch.equal(there.one_order, back.one_order)
    assert 0.2 < there.one_order.float().mean() < 0.8
    # Each side is shown first about as often, so that an error in the offset favours no side.
    first = [a_is_first(str(prompt), u, v) for prompt, u, v in zip(prompts, a, b, strict=True) if u != v]
    assert abs(sum(first) / len(first) - 0.5) < 3 * 0.5 / len(first) ** 0.5


def test_only_far_comparisons_do_without_the_second_order() -> None:
    prompts, a, b = comparisons()
    judge = UnsureJudge()
    found = AdaptiveOrder(judge, threshold=1.5, offset=0.4).compare(prompts, a, b)
    both = UnsureJudge().compare(prompts, a, b)
    single = found.one_order
    read = torch.where(found.margin_ab.isnan(), found.margin_ba, found.margin_ab)
    assert bool(((read - 0.4).abs() >= 1.5)[single].all())
    assert torch.equal(found.select(~single).win_logit, both.select(~single).win_logit)
    # The estimate is the reading without the offset, with the sign of its order.
    sign = torch.where(found.margin_ab.isnan(), -1.0, 1.0)
    assert torch.equal(found.win_logit[single], (sign * (read - 0.4))[single])
    assert len(judge.asked) < len(both.readings)
    assert set(map(str, judge.asked)) <= {
        str(each) for p, u, v in zip(prompts, a, b, strict=True) for each in ((list(p), u, v), (list(p), v, u))
    }


def test_equal_responses_are_one_reading_and_exactly_one_half() -> None:
    judge = UnsureJudge()
    prompt = ({"role": "user", "content": "p"},)
    for threshold in (0.0, math.inf):
        judge.asked = []
        found = AdaptiveOrder(judge, threshold=threshold).compare([prompt], ["same"], ["same"])
        assert found.win_prob.item() == 0.5
        assert found.win_logit.item() == 0.0
        assert len(judge.asked) == 1
        assert not found.one_order.any()


def test_without_a_limit_it_is_the_judge() -> None:
    prompts, a, b = comparisons()
    found, expected = (
        AdaptiveOrder(UnsureJudge(), math.inf).compare(prompts, a, b),
        UnsureJudge().compare(prompts, a, b),
    )
    assert torch.equal(found.margin_ab, expected.margin_ab)
    assert torch.equal(found.margin_ba, expected.margin_ba)
    assert not found.one_order.any()


def test_a_bias_that_is_the_same_everywhere_costs_nothing_to_take_off() -> None:
    class Biased(LengthJudge):
        def rule(self, first: str, second: str) -> float:
            return super().rule(first, second) + 0.75

    prompts, a, b = comparisons()
    found = AdaptiveOrder(Biased(), threshold=0.0, offset=0.75).compare(prompts, a, b)
    assert torch.equal(found.win_logit, LengthJudge().compare(prompts, a, b).win_logit)
    differ = torch.tensor([u != v for u, v in zip(a, b, strict=True)])
    assert torch.equal(found.one_order, differ)


def test_a_failed_judgement_stays_failed_and_is_not_asked_twice() -> None:
    prompts, a, b = comparisons(20)
    a[3], b[4] = "mumble", "mumble"
    judge = UnsureJudge(fails="mumble")
    found = AdaptiveOrder(judge, threshold=1.0).compare(prompts, a, b)
    assert (~found.judged).nonzero()[:, 0].tolist() == [3, 4]
    assert found.win_prob[3:5].isnan().all()
    assert sum("mumble" in u + v for _, u, v in judge.asked) == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"threshold": NAN}, "threshold is nan"),
        ({"threshold": 1.0, "offset": math.inf}, "offset is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AdaptiveOrder(LengthJudge(), **settings)


def test_judges_that_gain_nothing_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="BradleyTerryJudge, which reads each response by itself"):
        AdaptiveOrder(BradleyTerryJudge("nowhere"), threshold=1.0)
    inner = AdaptiveOrder(LengthJudge(), threshold=1.0)
    with pytest.raises(ValueError, match="AdaptiveOrder, which chooses the orders itself"):
        AdaptiveOrder(inner, threshold=1.0)
    with pytest.raises(ValueError, match="put StoredJudge inside AdaptiveOrder"):
        StoredJudge(inner, str(tmp_path))


# ---- what reports make of a comparison in one order


def mixed() -> Verdict:
    """Make a pair in both orders (it flips), one in either order alone, a failed one, and an equal one."""
    ab, ba = torch.tensor([1.0, 2.0, NAN, NAN, 0.5]), torch.tensor([0.5, NAN, 3.0, NAN, 0.5])
    return Verdict(ab, ba, torch.tensor([NAN, 1.8, -3.2, NAN, NAN]))


def test_metrics_compare_orders_where_both_were_read() -> None:
    scores = Scores(torch.zeros(5), mixed(), torch.arange(5))
    numbers = _of_sources(scores)
    both = Verdict(torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.5]))
    assert numbers["judge/second_order_share"] == pytest.approx(1 / 3)  # of three different pairs that were judged
    assert numbers["reward/order_gap"] == pytest.approx(float(both.order_gap.mean()))
    assert numbers["reward/flip_rate"] == 0.5
    logits = torch.tensor([0.25, 1.8, -3.2, 0.0])
    assert numbers["reward/logodds_mean"] == pytest.approx(float(logits.mean()))
    assert numbers["reward/win_rate"] == pytest.approx(2.5 / 4)
    single = _of_sources(Scores(torch.zeros(2), mixed().select(torch.tensor([1, 2])), torch.arange(2)))
    assert single["judge/second_order_share"] == 0
    assert "reward/order_gap" not in single
    both_orders = _of_sources(Scores(torch.zeros(2), both, torch.arange(2)))
    assert "judge/second_order_share" not in both_orders


def test_a_reading_that_nobody_asked_for_is_no_broken_number() -> None:
    assert _margins(Scores(torch.zeros(5), mixed(), torch.arange(5))).isfinite().all()
    infinite = Verdict(torch.tensor([math.inf]), torch.tensor([NAN]), torch.tensor([math.inf]))
    assert _margins(Scores(torch.zeros(1), infinite, torch.arange(1))).tolist() == [math.inf]


def test_a_report_of_a_judge_counts_each_figure_where_it_was_measured() -> None:
    pairs = [pair(f"q {n}", "x" * (n % 4 + 1), "y" * (n // 4 % 5 + 1)) for n in range(40)]
    judged = judge_pairs(AdaptiveOrder(UnsureJudge(), threshold=1.5, offset=0.5), pairs)
    report, both = judge_report(judged, resamples=10), judged.verdict.both_orders
    assert report["order_gap"]["num"] == report["flip_rate"]["num"] == int(both.sum()) > 0
    assert report["accuracy"]["num"] == report["first_position_rate"]["num"] == 40
    first, second = report["accuracy_better_first"]["num"], report["accuracy_better_second"]["num"]
    assert first + second == 40 + int(both.sum())
    swapped = [pair(f"q {n}", "y" * (n // 4 % 5 + 1), "x" * (n % 4 + 1), preference=0.0) for n in range(40)]
    again = judge_pairs(AdaptiveOrder(UnsureJudge(), threshold=1.5, offset=0.5), swapped)
    assert judge_report(again, resamples=10) == report


def test_a_validation_has_no_probability_of_an_order_that_was_not_read() -> None:
    prompts, a, b = comparisons(30)
    tokens = torch.ones(30, 1, dtype=torch.long)
    rollout = answered(PromptBatch(tokens, tokens.bool(), prompts, [(each,) for each in b]), a)
    verdict, rows = against_anchors(AdaptiveOrder(UnsureJudge(), threshold=1.5).compare, rollout)
    validation = PolicyValidation(Validation(), lambda: 0)
    validation.start()
    validation.add(rollout, {"": verdict}, rows, torch.zeros(30))
    gathered = validation.gather()
    numbers = policy_report(gathered)
    both = verdict.select(verdict.both_orders)
    assert numbers["order_gap"] == pytest.approx(float(both.order_gap.mean()), abs=1e-6)
    assert numbers["win_prob"] == pytest.approx(float(verdict.win_prob.mean()), abs=1e-6)
    assert numbers["failed_frac"] == 0
    from_file = [{k: None if v != v else v for k, v in row.items()} for row in gathered]  # as files hold them
    assert policy_report(from_file)["order_gap"] == numbers["order_gap"]
    assert "order_gap" not in policy_report([row for row in from_file if None in row.values()])


# ---- the threshold


def planted(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins in both orders: debiased log-odds of deviation 1.5, a place worth 0.3 on average, 0.5 more or less."""
    debiased, bias = rng.normal(0, 1.5, number), rng.normal(0.3, 0.5, number)
    return debiased + bias, bias - debiased


def true_error(threshold: float, offset: float, margins: tuple[np.ndarray, np.ndarray]) -> float:
    """Compute the expected |p - p of both orders|, each order first half of the time."""
    sigma = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    exact = sigma((margins[0] - margins[1]) / 2)
    errors = []
    for z, better in ((margins[0], exact), (margins[1], 1 - exact)):
        errors.append(np.where(np.abs(z - offset) < threshold, 0, np.abs(sigma(z - offset) - better)).mean())
    return float(np.mean(errors))


def test_the_stated_error_holds_in_simulations_and_is_not_far_below() -> None:
    rng = np.random.default_rng(0)
    population = planted(rng, 50_000)
    errors, shares = [], []
    for _ in range(100):
        verdict = Verdict(*(torch.tensor(each) for each in planted(rng, 300)))
        found = fit_threshold(verdict, 0.03, confidence=0.9)
        errors.append(true_error(found.threshold, found.offset, population))
        shares.append(found.second_order_share)
    assert np.mean(np.array(errors) > 0.03) <= 0.1
    assert np.mean(errors) > 0.01  # the whole of it is not spent on certainty
    assert 0.1 < np.mean(shares) < 0.7


def test_a_place_that_is_worth_the_same_everywhere_needs_one_order() -> None:
    debiased = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fit_threshold(Verdict(debiased + 0.25, 0.25 - debiased), 0.05)
    assert found.second_order_share == 0
    assert found.offset == pytest.approx(0.25)
    assert found.found_error < 1e-9


def test_the_offset_of_a_prompt_is_that_of_other_prompts() -> None:
    debiased = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias = torch.arange(200, dtype=torch.float64) % 2  # by turns, as the halves of the prompts are
    found = fit_threshold(Verdict(debiased + bias, bias - debiased), 0.4)
    apart = [(float(z) + (1 if even else -1), float(z)) for z, even in zip(debiased, (bias == 0).tolist(), strict=True)]
    # Off by one in log-odds, to the one side with the first order and to the other with the second.
    expected = [abs(1 / (1 + math.exp(-a)) - 1 / (1 + math.exp(-z))) for a, z in apart]
    expected += [abs(1 / (1 + math.exp(-(2 * z - a))) - 1 / (1 + math.exp(-z))) for a, z in apart]
    assert found.second_order_share == 0
    assert found.found_error == pytest.approx(sum(expected) / len(expected))


def test_pairs_of_one_prompt_count_as_one() -> None:
    verdict = Verdict(*(torch.tensor(each) for each in planted(np.random.default_rng(1), 100)))
    repeated = Verdict(verdict.margin_ab.repeat(4), verdict.margin_ba.repeat(4))
    once = fit_threshold(verdict, 0.05)
    of_prompts = fit_threshold(repeated, 0.05, list(range(100)) * 4)
    assert of_prompts.threshold == once.threshold
    assert (of_prompts.num_pairs, of_prompts.num_prompts) == (400, 100)
    assert fit_threshold(repeated, 0.05).threshold < once.threshold


def test_pairs_that_show_nothing_are_refused_or_left_out() -> None:
    verdict = Verdict(*(torch.tensor(each) for each in planted(np.random.default_rng(1), 100)))
    with pytest.raises(ValueError, match="100 prompts .* expected at least 302: give more calibration pairs"):
        fit_threshold(verdict, 0.01)
    with pytest.raises(ValueError, match="read in both orders; use the judge without AdaptiveOrder"):
        fit_threshold(mixed(), 0.05)
    with pytest.raises(ValueError, match="error is 1.5"):
        fit_threshold(verdict, 1.5)
    more = (
        torch.cat([verdict.margin_ab, torch.tensor([NAN, 0.5])]),
        torch.cat([verdict.margin_ba, torch.full((2,), 0.5)]),
    )
    assert fit_threshold(Verdict(*more), 0.05) == fit_threshold(verdict, 0.05)  # a failed pair, and equal responses


def test_a_judge_of_places_alone_is_read_in_both_orders_or_in_one_alike() -> None:
    verdict = AdaptiveOrder(PositionJudge(2.0), threshold=0.5, offset=2.0).compare(*comparisons())
    assert torch.equal(verdict.win_prob, torch.full((200,), 0.5))
