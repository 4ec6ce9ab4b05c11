"""The Bradley-Terry scale of an arena, against other fits, closed forms and planted scores."""

import math

import numpy as np
import pytest
import torch

from prl.evaluation.arena.bradley_terry import (
    centred,
    covariance,
    fit_bradley_terry,
    open_ends,
    robust_covariance,
)
from prl.evaluation.arena.games import games_of, pairs_of, sums_by_prompt
from prl.evaluation.arena.intervals import difference, scale_of, without_each
from prl.evaluation.arena.lengths import at_equal_lengths
from tests.helpers.arena import fitted, played, round_robin

TRUTH = (1.0, 0.5, 0.0, -0.5, -1.0)


def by_gradient(design: np.ndarray, wins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Logistic regression without an intercept, by scikit-learn: a row for wins and one for losses."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10, max_iter=10_000)
    rows, target = np.concatenate([design, design]), np.repeat([1, 0], len(design))
    model.fit(rows, target, sample_weight=np.concatenate([wins, counts - wins]))
    return model.coef_[0]


def drawn_counts(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    counts = generator.integers(5, 30, 10).astype(float)
    return generator.binomial(counts.astype(int), 0.2 + 0.6 * generator.random(10)) * 1.0, counts


def design_of(size: int) -> np.ndarray:
    first, second = pairs_of(size)
    return np.eye(size)[first] - np.eye(size)[second]


def test_the_scale_is_that_of_scikit_learn() -> None:
    """With the ties of the prior as rows of one player against nobody."""
    wins, counts = drawn_counts()
    design = np.concatenate([design_of(5), np.eye(5)])
    expected = by_gradient(design, np.r_[wins, np.full(5, 0.5)], np.r_[counts, np.ones(5)])
    found, _ = fit_bradley_terry(*pairs_of(5), torch.tensor(wins)[None], torch.tensor(counts)[None], 5)
    np.testing.assert_allclose(found[0], expected - expected.mean(), atol=1e-5)


def test_a_length_term_is_that_of_scikit_learn() -> None:
    wins, counts = drawn_counts(1)
    length = np.random.default_rng(2).normal(size=10)
    design = np.c_[design_of(5), length]
    expected = by_gradient(design, wins, counts)
    found, gamma = fit_bradley_terry(
        *pairs_of(5),
        torch.tensor(wins)[None],
        torch.tensor(counts)[None],
        5,
        length=torch.tensor(length),
        prior_ties=0,
    )
    np.testing.assert_allclose(found[0], expected[:5] - expected[:5].mean(), atol=1e-4)
    assert float(gamma[0]) == pytest.approx(expected[5], abs=1e-4)


def test_of_two_players_the_difference_is_the_log_odds_of_the_rate() -> None:
    first, second = pairs_of(2)
    points, counts = torch.tensor([[30.0], [7.5], [50.0]]).double(), torch.tensor([[40.0], [30.0], [100.0]]).double()
    found, _ = fit_bradley_terry(first, second, points, counts, 2, prior_ties=0)
    rate = points / counts
    torch.testing.assert_close(found[:, :1] - found[:, 1:], rate.logit())
    assert found.sum(1).abs().max() < 1e-12
    # The Fisher information of log-odds is n p (1 - p), so the variance of the difference is its inverse.
    matrix = covariance(found[0], first, second, counts[0], prior_ties=0)
    difference = matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1]
    assert float(difference) == pytest.approx(1 / (40 * 0.75 * 0.25), rel=1e-5)
    assert float(centred(covariance(found[0], first, second, counts[0]))[0, 0]) < float(difference) / 4


def test_a_consistent_judge_gives_its_own_scale() -> None:
    games = round_robin(TRUTH, num_prompts=3)
    torch.testing.assert_close(fitted(games, "probability", prior_ties=0), torch.tensor(TRUTH).double())
    near = fitted(round_robin(TRUTH, num_prompts=200), "probability")  # one tie is next to nothing
    torch.testing.assert_close(near, torch.tensor(TRUTH).double(), atol=5e-3, rtol=0)


def test_ties_count_half() -> None:
    won = games_of(2, [(0, 1, 0, 3.0), (0, 1, 1, -2.0)])
    tied = games_of(2, [(0, 1, 0, 0.0), (0, 1, 1, 0.0), (0, 1, 2, math.nan)])
    assert len(tied) == 2  # what failed counts nowhere
    assert fitted(tied).abs().max() == 0
    torch.testing.assert_close(fitted(won), fitted(tied))
    assert fitted(won, "probability")[0] > 0.05


def test_who_never_lost_has_a_score_and_no_upper_bound() -> None:
    rows = [(0, b, prompt, 1.0) for b in (1, 2) for prompt in range(20)]
    rows += [(1, 2, prompt, 1.0 if prompt % 3 else -1.0) for prompt in range(20)]
    scale = scale_of(games_of(3, rows), "wins", resamples=50)
    assert scale.high.isinf().tolist() == [True, False, False]
    assert scale.low.isinf().tolist() == [False, True, True]  # they are as far below as the first is above
    assert 2 < float(scale.scores[0]) < 4
    assert 0 < float(scale.low[0]) < 2
    assert scale.widest == math.inf


def test_the_distance_of_players_who_always_won_has_an_error() -> None:
    """0 and 1 always beat 2 and 3, equally often: no bootstrap sample has another distance between them."""
    rows = [(a, b, prompt, 1.0) for a, b in ((0, 2), (1, 3)) for prompt in range(40)]
    rows += [(2, 3, prompt, 1.0 if prompt % 2 else -1.0) for prompt in range(40)]
    games = games_of(4, rows)
    scale = scale_of(games, "wins", resamples=50)
    distance, low, high = difference(scale, 0, 1)
    assert abs(distance) < 0.1
    assert low < distance - 1
    assert high > distance + 1
    assert difference(scale, 0, 2)[2] == math.inf
    equal = at_equal_lengths(games, torch.arange(120) % 7 - 3.0, "wins", resamples=50)
    assert equal.high.isinf().tolist() == [True, True, False, False]
    assert (equal.scores - equal.low)[:2].min() > 0.5  # the ties of the prior are all that is known of it
    with pytest.raises(ValueError, match="no comparison"):
        scale_of(games_of(2, []), "wins")


def test_the_sandwich_is_the_bootstrap_to_first_order() -> None:
    """Points between 0 and 1, several of each prompt: the Fisher information states more than twice the error."""
    games = round_robin(TRUTH, num_prompts=300, noise=0.5)
    scale = scale_of(games, "probability")
    sums = sums_by_prompt(games, "probability")
    found = centred(robust_covariance(scale.scores, *pairs_of(5), *sums)).diagonal().sqrt()
    torch.testing.assert_close(found, scale.resampled.std(0), rtol=0.12, atol=0)
    assert (scale.stated.diagonal().sqrt() > 2 * found).all()


def test_the_length_of_a_response_is_one_more_number_to_learn() -> None:
    """The error with the effect of length is that of statsmodels' rule: the inverse of X' W X without its last row."""
    first, second = pairs_of(4)
    length, counts = torch.linspace(-1, 1, 6).double(), torch.full((6,), 20.0).double()
    scores = torch.tensor([0.6, 0.1, -0.2, -0.5]).double()
    design = np.c_[np.eye(4)[first] - np.eye(4)[second], length]
    prob = 1 / (1 + np.exp(-(design @ [*scores.tolist(), 0.7])))
    own = 1 / (1 + np.exp(-scores.numpy()))
    expected = design.T @ (design * (20 * prob * (1 - prob))[:, None]) + np.diag([*own * (1 - own), 0])
    found = covariance(scores, first, second, counts, length=length, gamma=0.7)
    np.testing.assert_allclose(found, np.linalg.inv(expected)[:4, :4], rtol=1e-4)


def test_scores_are_bounded_along_chains() -> None:
    first, second = pairs_of(4)  # 01 02 03 12 13 23
    points, counts = torch.tensor([1.0, 0, 0, 1, 0, 1]), torch.tensor([2.0, 0, 0, 2, 0, 2])
    low, high = open_ends(first, second, points, counts, 4)
    assert not low.any() | high.any()
    points[2] = counts[2] = 1.0  # a first win changes nothing, a pair without comparisons neither
    assert not open_ends(first, second, points, counts, 4)[1].any()
    low, high = open_ends(first, second, torch.tensor([1.0, 0, 1, 2, 0, 1]), counts, 4)
    assert high.tolist() == [True, True, False, False]
    assert low.tolist() == [False, False, True, True]


def test_leaving_a_player_out_moves_what_it_alone_held_up() -> None:
    consistent = round_robin(TRUTH, num_prompts=400)
    scores = fitted(consistent, "probability")
    low, high = without_each(consistent, "probability", scores)
    assert (high - low).max() < 0.01
    torch.testing.assert_close((low + high) / 2, scores, atol=0.01, rtol=0)
    # The first beats the last as the scale says, and loses to it when they are the only pair: a circle of three.
    rows = [(0, 1, p, 1.0) for p in range(100)] + [(1, 2, p, 1.0) for p in range(100)]
    games = games_of(3, rows + [(0, 2, p, -1.0) for p in range(100)])
    low, high = without_each(games, "probability", fitted(games, "probability"))
    assert low[0] < -0.4 < 0.4 < high[0]
    assert without_each(round_robin((0.0, 1.0), 5), "wins", torch.zeros(2)) is None


def test_equal_lengths_take_out_what_length_alone_won() -> None:
    """A judge of lengths: the longer player is ahead as counted, and level at equal lengths."""
    generator = np.random.default_rng(0)
    lengths = generator.normal([60, 50, 50], 15, (400, 3))
    pairs = [(p, a, b) for p in range(400) for a, b in ((0, 1), (0, 2), (1, 2))]
    difference = torch.tensor([lengths[p, a] - lengths[p, b] for p, a, b in pairs])
    logits = 2 * torch.tanh(difference / difference.std(correction=0))
    games = games_of(3, [(a, b, p, float(z)) for (p, a, b), z in zip(pairs, logits, strict=True)])
    equal = at_equal_lengths(games, difference, "probability", resamples=100)
    assert scale_of(games, "probability", resamples=50).low[0] > 0.15
    assert equal.scores.abs().max() < 0.01
    assert equal.length_effect == pytest.approx(2, abs=0.02)
    assert not equal.extrapolated.any()
    always = torch.tensor([10.0 if a == 0 else -5.0 if p % 2 else 5.0 for p, a, _ in pairs])
    assert at_equal_lengths(games, always, "wins", resamples=5).extrapolated.tolist() == [True, False, False]


def test_the_resampling_takes_whole_prompts() -> None:
    """Copies of a comparison within a prompt add nothing to what is known; further prompts do."""
    one = games_of(2, [(0, 1, p, 1.0 if p % 3 else -1.0) for p in range(60)])
    copies = games_of(2, [(0, 1, p, 1.0 if p % 3 else -1.0) for p in range(60) for _ in range(10)])
    more = games_of(2, [(0, 1, p, 1.0 if p % 3 else -1.0) for p in range(600)])
    widths = [scale_of(games, "wins").widest for games in (one, copies, more)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] == pytest.approx(widths[0] / math.sqrt(10), rel=0.1)
    assert sums_by_prompt(copies, "wins")[1].shape == (60, 1)


def covered(truth: tuple[float, ...], prompts: int, budget: int, simulations: int) -> np.ndarray:
    """In how many simulations the interval of each player holds its planted score."""
    target = torch.tensor(truth).double() - sum(truth) / len(truth)
    held = np.zeros(len(truth))
    for seed in range(simulations):
        scale = scale_of(played(truth, prompts, budget, seed), "wins", resamples=200)
        held += ((scale.low <= target) & (target <= scale.high)).numpy()
    return held


def test_intervals_cover_planted_scores() -> None:
    """At 95 % a player is missed in 1.5 of 30; three standard errors of the binomial are 3.6 more."""
    assert covered((0.8, 0.0, -0.8), 50, 100, simulations=30).min() >= 25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "prompts", "budget"), [(TRUTH, 100, 300), ((2.0, 0.5, 0.0, -0.5, -2.0), 60, 240), ((1.0, -1.0), 80, 80)]
)
def test_intervals_cover_planted_scores_in_200_simulations(truth, prompts, budget) -> None:
    """Chosen adaptively: 190 of 200 are expected of each player, with a standard error of 3.1."""
    held = covered(truth, prompts, budget, simulations=200)
    assert held.min() >= 180
    assert held.mean() >= 185
