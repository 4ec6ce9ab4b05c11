import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.evaluation.judge.report import judge_metrics
from prl.verdict import Verdict


def report(ab, ba, targets=None) -> dict[str, float]:
    ab, ba = torch.as_tensor(ab), torch.as_tensor(ba)
    return judge_metrics(Verdict(ab, ba), torch.ones(len(ab)) if targets is None else torch.as_tensor(targets))


def test_perfect_judge() -> None:
    found = report([20.0] * 30, [-20.0] * 30)
    for name, value in {"accuracy": 1.0, "accuracy_chosen_first": 1.0, "accuracy_rejected_first": 1.0}.items():
        assert found[name] == value
    for name in ("nll", "brier", "ece", "order_gap"):
        assert found[name] == pytest.approx(0.0, abs=1e-6)
    assert found["flip_rate"] == 0.0
    assert found["first_position_rate"] == 0.5
    assert found["margin"] == 20.0


def test_judge_that_is_always_wrong() -> None:
    found = report([-20.0] * 30, [20.0] * 30)
    assert found["accuracy"] == found["accuracy_chosen_first"] == found["accuracy_rejected_first"] == 0.0
    assert found["nll"] == pytest.approx(20.0, abs=1e-6)
    assert found["brier"] == pytest.approx(1.0, abs=1e-6)
    assert found["ece"] == pytest.approx(1.0, abs=1e-6)
    assert found["margin"] == -20.0


def test_coin_judge() -> None:
    margins = torch.randn(4000)
    found = report(margins, -margins)
    assert found["accuracy"] == pytest.approx(0.5, abs=0.03)  # four standard errors of 4000 coins
    assert found["flip_rate"] == 0.0


def test_judge_without_opinion() -> None:
    found = report([0.0] * 10, [0.0] * 10)
    assert found["accuracy"] == found["accuracy_chosen_first"] == found["accuracy_rejected_first"] == 0.5
    assert found["nll"] == pytest.approx(math.log(2), abs=1e-12)
    assert found["brier"] == 0.25
    assert found["ece"] == pytest.approx(0.0, abs=1e-6)
    assert found["order_gap"] == 0.0


def test_order_effects_of_a_judge_without_opinion() -> None:
    found = report([0.0] * 10, [0.0] * 10)
    assert found["flip_rate"] == 0.0
    assert found["first_position_rate"] == 0.5


def test_position_judge() -> None:
    found = report([2.0] * 10, [2.0] * 10)
    assert found["accuracy"] == 0.5
    assert found["accuracy_chosen_first"] == 1.0
    assert found["accuracy_rejected_first"] == 0.0
    assert found["flip_rate"] == 1.0
    assert found["first_position_rate"] == 1.0
    assert found["order_gap"] == pytest.approx(2 * 0.8807970779778823 - 1, abs=1e-6)
    assert found["margin"] == 0.0


def test_second_place_judge() -> None:
    found = report([-2.0] * 10, [-2.0] * 10)
    assert found["flip_rate"] == 1.0
    assert found["first_position_rate"] == 0.0


def test_soft_targets_by_hand() -> None:
    # z = 1.0 and -0.5; the second pair's label says that the rejected one is better
    found = report([1.0, -0.5], [-1.0, 0.5], [0.8, 0.25])
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(0.5))
    nll = [-(0.8 * math.log(p) + 0.2 * math.log(1 - p)), -(0.25 * math.log(q) + 0.75 * math.log(1 - q))]
    assert found["nll"] == pytest.approx(sum(nll) / 2, abs=1e-7)
    assert found["brier"] == pytest.approx(((p - 0.8) ** 2 + (q - 0.25) ** 2) / 2, abs=1e-7)
    assert found["accuracy"] == 1.0
    assert found["margin"] == pytest.approx((0.6 * 1.0 + 0.5 * 0.5) / 2, abs=1e-7)


@given(
    st.lists(
        st.tuples(st.floats(-8, 8), st.floats(-8, 8), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=9
    )
)
@settings(max_examples=40)
def test_swapping_every_pair_changes_no_figure(rows: list[tuple[float, float, float]]) -> None:
    ab, ba, targets = torch.tensor(rows, dtype=torch.float64).T
    there, back = report(ab, ba, targets), report(ba, ab, 1 - targets)
    for name in there:  # ties keep their order, so sums may run in another one
        assert back[name] == pytest.approx(there[name], abs=1e-6, nan_ok=True), name


def test_undecided_labels_count_in_nll_and_brier_only() -> None:
    decided = report([1.0, -2.0], [-1.0, 2.0])
    mixed = report([1.0, -2.0, 9.0, -9.0], [-1.0, 2.0, -9.0, 9.0], [1.0, 1.0, 0.5, 0.5])
    for name in ("accuracy", "accuracy_chosen_first", "accuracy_rejected_first", "ece"):
        assert mixed[name] == pytest.approx(decided[name], abs=1e-6)
    assert mixed["nll"] > decided["nll"]
    assert mixed["brier"] == pytest.approx((2 * decided["brier"] + 2 * 0.25) / 4, abs=1e-3)


def test_only_undecided_labels() -> None:
    found = report([1.0, -1.0], [-1.0, 1.0], [0.5, 0.5])
    assert math.isnan(found["accuracy"])
    assert math.isfinite(found["nll"])


def calibrated(num_pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Margins, and labels drawn with exactly the probabilities that they state."""
    margins = torch.randn(num_pairs, dtype=torch.float64) * 1.5
    return margins, (torch.rand(num_pairs, dtype=torch.float64) < margins.sigmoid()).double()


def test_calibrated_judge_has_a_small_calibration_error() -> None:
    margins, targets = calibrated(20_000)
    # 15 bins of about 1300 pairs: a standard error of 1.4 % a bin, 1 % on average in absolute value
    assert report(margins, -margins, targets)["ece"] < 0.02


def test_overconfident_judge_has_a_large_one() -> None:
    margins, targets = calibrated(20_000)
    assert report(6 * margins, -6 * margins, targets)["ece"] > 0.15


def test_overconfidence_shows_although_chosen_always_stands_in_the_same_place() -> None:
    # Right in 70 % of the pairs but sure of all of them; every target is 1, as in a preference file.
    margins = torch.where(torch.rand(4000) < 0.7, 8.0, -8.0)
    assert report(margins, -margins)["ece"] == pytest.approx(0.3, abs=0.03)
    honest = torch.where(torch.rand(4000) < 0.7, 1.0, -1.0) * math.log(0.7 / 0.3)
    assert report(honest, -honest)["ece"] < 0.03
