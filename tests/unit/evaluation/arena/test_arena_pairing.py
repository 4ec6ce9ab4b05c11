"""Which comparison comes next: a sweep of all pairs, then where the scale learns most, and prompts in turn."""

from collections import Counter

import numpy as np
import pytest
import torch

from prl.evaluation.arena.bradley_terry import centred, covariance
from prl.evaluation.arena.games import pairs_of
from prl.evaluation.arena.pairing import POWER, Game, Pairing, gains
from tests.helpers.arena import played


def test_the_first_sweep_plays_all_pairs_and_all_prompts_alike() -> None:
    pairing = Pairing(5, 40)
    games = pairing.plan(torch.zeros(5).double(), 20)
    assert set(Counter(game[1:] for game in games).values()) == {2}
    assert not pairing.sweeping
    assert max(Counter(game.prompt for game in games).values()) == 1
    assert Counter(player for game in games for player in game[1:]) == dict.fromkeys(range(5), 8)


def test_no_comparison_is_made_twice_and_the_end_is_told() -> None:
    pairing = Pairing(3, 4)
    games = pairing.plan(torch.tensor([1.0, 0, -1]).double(), 100)
    assert len(games) == len(set(games)) == 12
    assert pairing.plan(torch.zeros(3).double(), 1) == []


def test_the_plan_depends_on_counts_scale_and_seed_alone() -> None:
    scores = torch.tensor([2.0, 0.3, 0, -1]).double()
    one, other = Pairing(4, 50), Pairing(4, 50)
    before = one.plan(torch.zeros(4).double(), 30)
    other.add(reversed(before))  # in another order, as a file may have them
    assert one.plan(scores, 20) == other.plan(scores, 20)
    different = Pairing(4, 50, seed=1)
    different.add(before)
    assert different.plan(scores, 20) != Pairing(4, 50).plan(scores, 20)


def test_far_players_do_not_meet() -> None:
    pairing = Pairing(4, 500)
    scores = torch.tensor([6.0, 2.0, -2.0, -6.0]).double()
    pairing.plan(scores, 18)
    met = Counter(game[1:] for game in pairing.plan(scores, 200))
    assert met[0, 3] + met[0, 2] + met[1, 3] <= 4  # the scale is unsure at first
    assert min(met[0, 1], met[1, 2], met[2, 3]) > 20


def test_the_gain_is_the_fall_of_the_norm_of_the_variances() -> None:
    """Against the covariance computed anew with a small part of a comparison more: a finite difference."""
    first, second = pairs_of(5)
    scores = torch.tensor([1.5, 0.4, 0.1, -0.6, -1.4]).double()
    counts = torch.tensor([300.0, 200, 500, 100, 400, 300, 200, 250, 350, 150]).double()

    def norm(more: torch.Tensor) -> float:
        return float((centred(covariance(scores, first, second, counts + more)).diagonal() ** POWER).sum())

    matrix = covariance(scores, first, second, counts)
    found = gains(scores.numpy(), matrix.numpy(), first.numpy(), second.numpy())
    step = torch.eye(10).double() * 1e-3
    fall = np.array([norm(0 * row) - norm(row) for row in step])
    np.testing.assert_allclose(found / found.max(), fall / fall.max(), atol=0.01)
    assert int(found.argmax()) == int(fall.argmax())


def test_games_of_one_prompt_share_no_player_while_others_are_free() -> None:
    pairing = Pairing(4, 30)
    pairing.add([Game(prompt, 0, 1) for prompt in range(10)])
    for game in pairing.plan(torch.zeros(4).double(), 20):
        assert game.prompt >= 10 or not {0, 1} & set(game[1:])


@pytest.mark.slow
def test_adaptive_pairing_needs_fewer_comparisons_than_uniform_pairing() -> None:
    """At one budget, the widest interval of eight players one log-odds apart: a third narrower is 0.7 of the budget."""
    from prl.evaluation.arena.intervals import scale_of

    truth = tuple(float(score) for score in range(8))
    widths = {
        adaptive: np.mean(
            [
                scale_of(played(truth, 1000, budget, seed, adaptive=adaptive, block=50), "wins").widest
                for seed in range(6)
            ]
        )
        for adaptive, budget in ((True, 700), (False, 1000))
    }
    assert widths[True] < widths[False]
