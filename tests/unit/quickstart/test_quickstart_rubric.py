import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.data.rows.criteria import read_criteria
from prl.quickstart import world
from prl.quickstart.rubric import holds, rubric_of, write_rubrics
from prl.quickstart.world import SPLITS, WorldSizes, right_answer, write_world
from prl.rewards.rubric import weigh

PROMPTS = st.builds(lambda seed: world.sample_prompt(Random(seed), SPLITS[seed % 2]), st.integers(0, 10_000))


def reward(prompt: str, response: str) -> float:
    row = {"rubric": rubric_of(prompt)}
    criteria = read_criteria(row, "rubric")
    grades = [holds((), response, each.text, row) for each in criteria]
    assert None not in grades
    return weigh(criteria, [float(bool(grade)) for grade in grades]).reward


@given(prompt=PROMPTS, seed=st.integers(0, 1000))
def test_the_right_answer_meets_all_criteria_and_a_mistake_does_not(prompt: str, seed: int) -> None:
    answer = right_answer(prompt)
    criteria = [each["criterion"] for each in rubric_of(prompt)]
    assert all(holds((), answer, each, {}) for each in criteria)
    assert reward(prompt, answer) == 1
    assert 0 <= reward(prompt, world.corrupt(Random(seed), prompt, answer)) < 1


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("reverse dca", "acd", 1.0),
        ("reverse dca", "acb", 3 / 7),  # its length and two places, of the fact with weight 3 and these four
        ("reverse dca", "", 0.0),
        ("sort dca", "bcd", 4 / 8),  # its length, a place, and the order: b is in no place of acd
        ("upper dca", "dca", 1 / 8),  # its length alone
        ("add 12+7", "18", 3 / 7),  # a number of two digits that begins with 1
        ("add 12+7", "x9", 2 / 7),
    ],
)
def test_a_response_is_worth_what_it_meets(prompt: str, response: str, expected: float) -> None:
    assert reward(prompt, response) == pytest.approx(expected)


def test_a_criterion_of_another_kind_is_not_graded() -> None:
    assert holds((), "acd", "is polite and short", {}) is None


def test_rubrics_stand_beside_the_prompts(tmp_path: Path) -> None:
    prompts = write_world(tmp_path, 0, WorldSizes(2, 2, 2, 2, 20, 5))
    for split, path in zip(SPLITS, write_rubrics(tmp_path), strict=True):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        given = [json.loads(line) for line in prompts[f"prompts.{split}"].read_text().splitlines()]
        assert [{name: row[name] for name in ("prompt", "anchor")} for row in rows] == given
        assert all(read_criteria(row, "rubric") for row in rows)
