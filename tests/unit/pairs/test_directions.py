"""Directions: their draws, and how a prompt tells them; figures of the authors' README."""

import math
import statistics
from random import Random
from typing import Any

import pytest

from prl.data import AnchoredPrompt
from prl.pairs.directions import COLUMN, Directions, integer_weights

TWO = ["helpfulness", "verbosity"]


def at(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


@pytest.mark.parametrize(("degrees", "weights"), [(0, (100, 0)), (-15, (97, -26)), (-30, (87, -50)), (45, (71, 71))])
def test_a_prompt_tells_whole_numbers(degrees: float, weights: tuple[int, int]) -> None:
    assert integer_weights(at(degrees)) == weights
    told = Directions(TWO, angles=(degrees, degrees), template="{helpfulness},{verbosity} {prompt}")
    (asked,) = told.ask([AnchoredPrompt([{"role": "user", "content": "hi {helpfulness}"}], extra={"kept": 1})], seed=0)
    assert asked.prompt == [{"role": "user", "content": f"{weights[0]},{weights[1]} hi {{helpfulness}}"}]
    assert asked.extra == {"kept": 1, COLUMN: pytest.approx(dict(zip(TWO, at(degrees), strict=True)))}


def test_a_direction_may_stand_in_the_system_message() -> None:
    plain = Directions(TWO)
    user = {"role": "user", "content": "q"}
    weights = "Respond so that helpfulness*87 + verbosity*-50 is large."
    assert plain.told([user], at(-30)) == [{"role": "system", "content": weights}, user]
    before = ({"role": "system", "content": "Be brief."}, user)
    assert plain.told(before, at(-30)) == [{"role": "system", "content": f"Be brief.\n{weights}"}, user]
    assert before[0]["content"] == "Be brief."
    turns = [user, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    assert Directions(["a"], template="{a} {prompt}").told(turns, (1.0,)) == [
        *turns[:2],
        {"role": "user", "content": "100 r"},
    ]


def test_draws_are_unit_vectors_in_the_range_and_spread_over_it() -> None:
    rng = Random(0)
    angles = [math.degrees(math.atan2(v, u)) for u, v in (Directions(TWO).draw(rng) for _ in range(4000))]
    assert -45 <= min(angles) < -44 < 44 < max(angles) <= 45
    assert abs(statistics.fmean(angles)) < 4 * 26 / 4000**0.5  # a uniform angle has a deviation of 90 / sqrt(12)
    assert statistics.stdev(angles) == pytest.approx(90 / 12**0.5, rel=0.04)
    one_sided = Directions(TWO, angles=(10.0, 20.0))
    assert all(10 <= math.degrees(math.asin(one_sided.draw(rng)[1])) <= 20 for _ in range(50))
    many = [Directions(["a", "b", "c", "d"], angles=(-60.0, 60.0)).draw(rng) for _ in range(500)]
    assert all(math.hypot(*each) == pytest.approx(1) for each in many)
    assert all(each[0] >= 0.5 for each in many)
    for axis in (1, 2, 3):  # none of the others is preferred
        assert abs(statistics.fmean(each[axis] for each in many)) < 0.1
    assert Directions(["only"]).draw(rng) == (1.0,)


def test_each_prompt_and_each_round_has_a_direction_of_its_own() -> None:
    records = [AnchoredPrompt([{"role": "user", "content": "q"}])] * 3
    first, again, later = (Directions(TWO).ask(records, seed) for seed in (1, 1, 2))
    assert first == again
    drawn = [each.extra[COLUMN]["verbosity"] for each in (*first, *later)]
    assert len(set(drawn)) == 6
    with pytest.raises(ValueError, match="prompt 1 has a column 'direction'"):
        Directions(TWO).ask(first, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attributes": []}, r"directions.attributes is \[\]"),
        ({"attributes": ["a", "a"]}, "different names"),
        ({"attributes": ["a b"]}, "letters, digits, _ and -"),
        ({"attributes": ["prompt"]}, "a placeholder of the template"),
        ({"angles": (10.0, -10.0)}, r"directions.angles is \[10.0, -10.0\]"),
        ({"angles": (-100.0, 0.0)}, "-90 to 90"),
        ({"template": "{helpfulness} {verbosty}"}, "has {verbosty}; expected names of attributes"),
        ({"template": "{helpfulness} {prompt}"}, "has no {verbosity}, so the policy could not know its weight"),
    ],
)
def test_settings_that_tell_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Directions(**{"attributes": TWO, **settings})
