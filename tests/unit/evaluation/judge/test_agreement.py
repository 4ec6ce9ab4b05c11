"""Coefficients of agreement against libraries, published tables, their definitions, limits and a simulation."""

from itertools import permutations

import numpy as np
import pytest

from prl.evaluation.bootstrap import bootstrap_statistic
from prl.evaluation.judge.agreement import (
    MISSING,
    cohen_kappa,
    confusion,
    fleiss_kappa,
    gwet_ac1,
    kappa_of_tables,
    krippendorff_alpha,
)

# Fleiss, Psychological Bulletin 76 (1971), table 1: 30 patients, 6 psychiatrists, 5 diagnoses; kappa is 0.430.
PSYCHIATRISTS = """444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444
    224445 333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"""
# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: 4 observers, 12 units; alpha is 0.743. It
# is the table raw4raters of Gwet's irrCAC for R too, whose manual has AC1 0.775, Fleiss' kappa 0.761, alpha 0.743.
OBSERVERS = (
    "123321412...",
    "12332241 25.3".replace(" ", ""),
    ".333234225 1.".replace(" ", ""),
    "1233244125 1.".replace(" ", ""),
)


def table(rows) -> np.ndarray:
    return np.array([[MISSING if each == "." else int(each) - 1 for each in row] for row in rows])


def random_ratings(rng, missing: float = 0.0) -> tuple[np.ndarray, int]:
    """Raters who know the truth of a share of the items; [N, R] ratings and the number of categories."""
    items, raters, categories = (int(rng.integers(*ends)) for ends in ((8, 60), (2, 6), (2, 5)))
    guesses = rng.choice(categories, (items, raters), p=rng.dirichlet(np.ones(categories)))
    knows = rng.random((items, raters)) < rng.uniform(0.1, 0.9)
    ratings = np.where(knows, rng.integers(0, categories, items)[:, None], guesses)
    ratings[rng.random((items, raters)) < missing] = MISSING
    return ratings[(ratings != MISSING).any(1)], categories


def test_cohen_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(50):
        ratings, categories = random_ratings(rng)
        expected = metrics.cohen_kappa_score(ratings[:, 0], ratings[:, 1])
        assert cohen_kappa(ratings[:, 0], ratings[:, 1], categories) == pytest.approx(expected, abs=1e-12)


def test_published_tables() -> None:
    assert fleiss_kappa(table(PSYCHIATRISTS.split()), 5) == pytest.approx(
        0.4302445, abs=5e-8
    )  # as R's irr and statsmodels
    observers = table(zip(*OBSERVERS, strict=True))
    assert (observers != MISSING).sum() == 41
    assert krippendorff_alpha(observers, 5) == pytest.approx(0.743, abs=5e-4)
    assert gwet_ac1(observers, 5) == pytest.approx(0.775, abs=5e-4)
    assert fleiss_kappa(observers, 5) == pytest.approx(0.761, abs=5e-4)


def pairs_within(ratings: np.ndarray):
    """All ordered pairs of ratings of one item, each with one over the number of the item's other ratings."""
    for item in ratings:
        known = [int(each) for each in item if each != MISSING]
        yield from ((c, k, 1 / (len(known) - 1)) for c, k in permutations(known, 2))


def test_alpha_by_its_definition() -> None:
    """Krippendorff (2011): 1 - D_o / D_e over the coincidence matrix, whose entries are counted pair by pair."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        ratings, categories = random_ratings(rng, missing=0.3)
        matrix = np.zeros((categories, categories))
        for c, k, share in pairs_within(ratings):
            matrix[c, k] += share
        number, sums = matrix.sum(), matrix.sum(0)
        observed = sum(matrix[c, k] for c in range(categories) for k in range(categories) if c != k)
        expected = sum(sums[c] * sums[k] for c in range(categories) for k in range(categories) if c != k) / (number - 1)
        found = krippendorff_alpha(ratings, categories)
        assert np.isnan(found) if expected == 0 else found == pytest.approx(1 - observed / expected, abs=1e-12)


def test_ac1_and_fleiss_by_their_definitions() -> None:
    """Gwet (2014): agreement over items with two ratings, shares over all; his own small loops are the definition."""
    rng = np.random.default_rng(2)
    for _ in range(30):
        ratings, categories = random_ratings(rng, missing=0.3)
        several = [item[item != MISSING] for item in ratings if (item != MISSING).sum() > 1]
        agree = [np.mean([a == b for a, b in permutations(item, 2)]) for item in several]
        shares = np.mean([[np.mean(i[i != MISSING] == c) for c in range(categories)] for i in ratings], axis=0)
        for found, chance in (
            (fleiss_kappa(ratings, categories), float((shares**2).sum())),
            (gwet_ac1(ratings, categories), float((shares * (1 - shares)).sum() / (categories - 1))),
        ):
            assert found == pytest.approx((np.mean(agree) - chance) / (1 - chance), abs=1e-12)


def test_limits() -> None:
    rng = np.random.default_rng(3)
    one = rng.integers(0, 3, 20_000)
    for coefficient in (fleiss_kappa, gwet_ac1, krippendorff_alpha):
        assert coefficient(np.stack([one, one], 1), 3) == pytest.approx(1)
        assert coefficient(np.stack([one, rng.permutation(one)], 1), 3) == pytest.approx(0, abs=0.02)
    assert cohen_kappa(one, one, 3) == pytest.approx(1)
    assert cohen_kappa(one, rng.permutation(one), 3) == pytest.approx(0, abs=0.02)
    assert cohen_kappa(one, np.full_like(one, 2), 3) == 0  # a constant agrees by chance alone
    same = np.zeros(5, dtype=int)
    assert np.isnan(cohen_kappa(same, same, 3))
    assert np.isnan(krippendorff_alpha(np.stack([same, same], 1), 3))
    assert gwet_ac1(np.stack([same, same], 1), 3) == 1  # what AC1 is for: one category, and no doubt about it
    alone = np.array([[0, MISSING], [MISSING, 1]])
    assert all(np.isnan(each(alone, 2)) for each in (fleiss_kappa, gwet_ac1, krippendorff_alpha))


def test_a_missing_rating_leaves_out_the_item() -> None:
    ratings, categories = random_ratings(np.random.default_rng(4))
    gone = ratings[:, 0].copy()
    gone[:3] = MISSING
    assert cohen_kappa(gone, ratings[:, 1], categories) == cohen_kappa(ratings[3:, 0], ratings[3:, 1], categories)


def test_intervals_by_prompt_cover_a_planted_kappa() -> None:
    """Two raters, copies of the truth with 0.8 and coins otherwise; the three pairs of a prompt are alike.

    They agree with p_o = 0.64 + 0.36 / 2 and by chance with 1/2, so kappa is 0.64.
    """
    rng, covered, narrow = np.random.default_rng(5), 0, 0
    prompts = np.repeat(np.arange(80), 3).tolist()
    for _ in range(150):
        truth = rng.integers(0, 2, 80)
        raters = [np.where(rng.random(80) < 0.8, truth, rng.integers(0, 2, 80)).repeat(3) for _ in range(2)]
        cells = confusion(*raters, 2)
        by_prompt = bootstrap_statistic(cells, prompts, kappa_of_tables, resamples=300)
        by_row = bootstrap_statistic(cells, range(240), kappa_of_tables, resamples=300)
        covered += by_prompt.low <= 0.64 <= by_prompt.high
        narrow += by_row.low <= 0.64 <= by_row.high
    assert 0.89 <= covered / 150 <= 0.99  # the standard error of the share is 1.8 %
    assert narrow / 150 < 0.85  # pairs taken for independent


def test_undefined_resamples_are_left_out() -> None:
    one = np.array([0] * 11 + [1])
    interval = bootstrap_statistic(confusion(one, one, 2), list(range(12)), kappa_of_tables)
    assert interval == (1, 1, 1)  # resamples without the last item have no kappa
    assert bootstrap_statistic(confusion(one[:3], one[:3], 2), [1, 2, 3], kappa_of_tables) is None
    assert bootstrap_statistic(np.zeros((0, 4)), [], kappa_of_tables) is None
