import numpy as np
import pytest

from prl.evaluation import bootstrap
from prl.evaluation.bootstrap import bootstrap_mean, bootstrap_statistic


def simulated(rng: np.random.Generator, prompts: int = 40, rows: int = 5) -> tuple[np.ndarray, list[int]]:
    """Rows of one prompt share most of their luck; the true mean is 0."""
    shared = rng.normal(0, 1, prompts).repeat(rows)
    return shared + rng.normal(0, 0.3, prompts * rows), np.arange(prompts).repeat(rows).tolist()


def test_coverage_of_grouped_rows() -> None:
    rng = np.random.default_rng(0)
    by_prompt = by_row = 0
    for _ in range(200):
        values, groups = simulated(rng)
        grouped = bootstrap_mean(values, groups, resamples=300)
        single = bootstrap_mean(values, resamples=300)
        by_prompt += grouped.low <= 0 <= grouped.high
        by_row += single.low <= 0 <= single.high
    # 95 % of 200 is 190; the standard error of a share of 200 is 1.5 %, and 40 groups make the interval a bit short.
    assert 0.89 <= by_prompt / 200 <= 0.99
    assert by_row / 200 < 0.75  # rows taken for independent: an interval less than half as wide as it should be


def test_width_by_prompt_is_what_the_group_means_say() -> None:
    values, groups = simulated(np.random.default_rng(1), prompts=400)
    interval = bootstrap_mean(values, groups, resamples=4000)
    standard_error = values.reshape(400, 5).mean(1).std() / 20
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.06)  # quantiles of 4000
    assert interval.mean == pytest.approx(values.mean(), abs=1e-12)


def test_repeating_rows_narrows_nothing() -> None:
    values = np.random.default_rng(2).normal(size=50)
    once = bootstrap_mean(values, list(range(50)))
    often = bootstrap_mean(values.repeat(10), np.arange(50).repeat(10).tolist())
    assert often == pytest.approx(once, abs=1e-12)
    naive = bootstrap_mean(values.repeat(10))
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_large_groups_weigh_as_many_rows_as_they_have() -> None:
    assert bootstrap_mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]).mean == 0.75
    assert bootstrap_mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])[1:] == (0.0, 1.0)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=30).tolist()
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    np.random.seed(5)  # the global state plays no part
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)


def test_one_value_is_its_own_interval() -> None:
    assert bootstrap_mean([0.25]) == (0.25, 0.25, 0.25)


def test_no_values() -> None:
    with pytest.raises(ValueError, match="no values to average"):
        bootstrap_mean([])


def test_a_mean_as_a_statistic_of_sums_has_the_interval_of_the_mean(monkeypatch) -> None:
    values, groups = simulated(np.random.default_rng(3))
    features = np.column_stack([values, np.ones(len(values))])
    expected = bootstrap_mean(values, groups)
    found = bootstrap_statistic(features, groups, lambda sums: sums[..., 0] / sums[..., 1])
    assert found == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(bootstrap, "PICKS_AT_ONCE", 1000)  # in parts
    again = bootstrap_statistic(features, groups, lambda sums: sums[..., 0] / sums[..., 1])
    assert again == pytest.approx(expected, abs=1e-12)
