"""The report of an arena: contradictions found, numbers in their places, and a picture of every case."""

import json
import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from prl.cli.arena_screen import lines, show
from prl.evaluation.arena.contradictions import against_the_scale, circles, direct_rates, pair_table
from prl.evaluation.arena.figure import draw_arena
from prl.evaluation.arena.games import Games, games_of
from prl.evaluation.arena.report import arena_report
from prl.evaluation.judge.transitivity import cyclic_triples
from tests.helpers.arena import fitted, round_robin

NAMES = ["a", "b", "c", "d"]
AGRESTI_COULL = (
    *((1, 1, 0.1675, 1.0), (0, 3, 0.0, 0.61747), (5, 5, 0.51095, 1.0)),
    *((7, 8, 0.50783, 0.99887), (10, 40, 0.1402, 0.40361), (80, 100, 0.71041, 0.86739)),
)


def report_of(games: Games, names: list[str], outcome: str = "wins") -> dict:
    same = torch.full((len(games),), 10.0)
    report = arena_report(names, games, (same, same + torch.arange(len(games)) % 2), outcome)
    return {**report, "stopped": "budget", "failed": 0, "unfinished_responses": {"a": 3}}


def test_circles_are_those_of_the_count_by_matrices() -> None:
    generator = np.random.default_rng(3)
    for _ in range(10):
        margins = generator.normal(size=(4, 4))
        logit = torch.tensor(margins - margins.T)
        rows = [(a, b, p, float(logit[a, b])) for p in range(2) for a in range(4) for b in range(a + 1, 4)]
        games = games_of(4, rows)
        pairs = pair_table(NAMES, games, fitted(games), "wins")
        found = circles(NAMES, pairs)
        assert (len(found), len(list(found))) == (cyclic_triples(logit)[0], len(found))
        for each in found:
            numbers = [NAMES.index(player) for player in each["players"]]
            assert all(logit[one, two] > 0 for one, two in zip(numbers, [*numbers[1:], numbers[0]], strict=True))


def test_a_circle_is_told_with_its_rates_and_whether_it_is_sure() -> None:
    """a > b > c > a in 80 of 100 prompts each, and d below all; the other circle rests on two prompts."""
    beats = [(0, 1, 1), (1, 2, 1), (0, 2, -1), (0, 3, 1), (1, 3, 1), (2, 3, 1)]
    rows = [(a, b, p, z if p % 5 else -z) for a, b, z in beats for p in range(100)]
    report = report_of(games_of(4, rows), NAMES)
    (circle,) = report["circles"]
    assert circle["players"] == ["a", "b", "c"]
    assert circle["sure"]
    assert [round(step["rate"], 2) for step in circle["steps"]] == [0.8, 0.8, 0.8]
    assert all(0.7 < step["low"] < 0.8 < step["high"] < 0.9 for step in circle["steps"])
    assert report["triples"] == 4
    text = "\n".join(lines(report))
    assert "circle: a beats b 0.80" in text
    assert "hit --max_new_tokens, judged as they are: a 3" in text
    few = report_of(games_of(3, [(0, 1, 0, 1.0), (1, 2, 0, 1.0), (0, 2, 0, -1.0), (0, 1, 1, 0.0)]), NAMES[:3])
    assert [each["sure"] for each in few["circles"]] == [False]
    once = report_of(games_of(3, [(0, 1, 0, 1.0), (1, 2, 0, 1.0), (0, 2, 0, -1.0)]), NAMES[:3])
    assert [each["sure"] for each in once["circles"]] == [False]  # each won all its games, of which there is one


def test_intervals_of_win_rates_are_those_of_statsmodels() -> None:
    """proportion_confint(won, number, method="agresti_coull"), statsmodels 0.15; comparisons of one prompt are one."""
    for won, number, low, high in AGRESTI_COULL:
        rows = [(0, 1, prompt, 1.0 if prompt < won else -1.0) for prompt in range(number) for _ in range(2)]
        rate, *ends = (float(each) for each in direct_rates(games_of(2, rows), "wins"))
        assert rate == won / number
        assert ends == pytest.approx([max(low, 0), min(high, 1)], abs=2e-5)


def test_intervals_of_win_probabilities_cover_their_mean_for_few_prompts() -> None:
    generator = np.random.default_rng(0)
    for number in (1, 3, 10, 40):
        for a, b in ((0.3, 0.2), (4.0, 2.0)):
            held, widths = 0, []
            for _ in range(300):
                points = generator.beta(a, b, number).clip(1e-9, 1 - 1e-9)
                games = games_of(2, [(0, 1, p, float(np.log(x / (1 - x)))) for p, x in enumerate(points)])
                _, low, high = (float(each) for each in direct_rates(games, "probability"))
                held += low <= a / (a + b) <= high
                widths.append(high - low)
            assert held >= 276  # 95 % less two and a half standard errors of the binomial
    assert np.mean(widths) < 0.75 * 2 * 1.96 * np.sqrt(2 / 9 / 40)  # narrower than that of wins and losses


def test_a_pair_against_the_scale_is_named_by_its_winner() -> None:
    """c is far below b by all others, and beats it directly."""
    rows = [(0, 1, p, 1.0 if p % 2 else -1.0) for p in range(60)]
    rows += [(0, 2, p, 1.0 if p % 6 else -1.0) for p in range(60)] + [
        (1, 3, p, 1.0 if p % 6 else -1.0) for p in range(60)
    ]
    rows += [(1, 2, p, -1.0 if p % 4 else 1.0) for p in range(12)] + [
        (2, 3, p, 1.0 if p % 2 else -1.0) for p in range(60)
    ]
    games = games_of(4, rows)
    (found,) = against_the_scale(pair_table(NAMES, games, fitted(games), "wins"))
    assert (found["winner"], found["loser"], found["rate"], found["comparisons"]) == ("c", "b", 0.75, 12)
    assert found["sure"] == (found["low"] > 0.5)
    assert (
        against_the_scale(pair_table(NAMES, round_robin((1, 0.5, 0, -1), 9), torch.tensor([1, 0.5, 0, -1]), "wins"))
        == []
    )


def test_the_report_has_the_players_in_order_with_what_they_won() -> None:
    rows = [(0, 1, 0, -1.0), (0, 1, 1, 0.0), (0, 1, 2, -2.0), (0, 2, 0, -1.0), (1, 2, 0, 1.0), (1, 2, 1, -1.0)]
    games = games_of(3, [*rows, (0, 2, 5, math.nan)])
    lengths = torch.tensor([10.0] * 4 + [30.0] * 2), torch.tensor([20.0] * 6)
    report = arena_report(NAMES[:3], games, lengths, "wins")
    by_name = {player["name"]: player for player in report["players"]}
    assert [player["name"] for player in report["players"]] == ["c", "b", "a"]
    assert (report["comparisons"], report["ties"], report["prompts"]) == (6, 1, 3)
    assert [by_name["b"][name] for name in ("wins", "ties", "losses", "comparisons")] == [3, 1, 1, 5]
    assert by_name["b"]["rate"] == pytest.approx(0.7)
    assert by_name["b"]["mean_length"] == pytest.approx((20 * 3 + 30 * 2) / 5)
    scores = [player["score"] for player in report["players"]]
    assert sum(scores) == pytest.approx(0)
    # 400 points of Elo are odds of ten to one.
    elo = report["players"][0]["elo"] - report["players"][2]["elo"]
    assert 10 ** (elo / 400) == pytest.approx(math.exp(scores[0] - scores[2]))
    assert by_name["a"]["at_equal_lengths"]["extrapolated"]
    assert by_name["b"]["at_equal_lengths"]["extrapolated"]  # always the longer one
    assert not by_name["c"]["at_equal_lengths"]["extrapolated"]
    json.dumps(report, allow_nan=False)
    with pytest.raises(ValueError, match="the arena has no comparison"):
        arena_report(["a", "b"], games_of(2, [(0, 1, 0, math.nan)]), (torch.zeros(0), torch.zeros(0)), "wins")


@pytest.mark.parametrize("size", [2, 16])
def test_every_arena_has_a_screen_and_a_picture(size, capsys) -> None:
    names = [f"player-{number}@100" for number in range(size)]
    truth = tuple(np.linspace(3, -3, size))
    report = report_of(round_robin(truth, 2), names)  # who is ahead always wins: nothing bounds the ends
    assert report["players"][0]["by_prompt"]["high"] is None
    show(report)
    told = capsys.readouterr().out
    assert "no bound" in told
    assert all(name in told for name in names)
    picture = BytesIO()
    draw_arena(report).savefig(picture, format="png")
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.std() > 10
