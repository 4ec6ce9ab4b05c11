"""Rewards by criteria, against figures that did not come from this repository."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.data.rows.criteria import Criterion
from prl.rewards import RuleRubric, WeightedReward
from prl.rewards.rubric import Question, weigh
from prl.types import PromptBatch, Rollout
from tests.helpers.records import answered

WEIGHTS = (3.0, 2.0, 1.0)


def criteria(weights: tuple[float, ...] = WEIGHTS, factual: tuple[int, ...] = ()) -> list[Criterion]:
    return [Criterion(f"has {n}", weight, n in factual) for n, weight in enumerate(weights, 1)]


def column(*entries: Criterion) -> list[dict[str, Any]]:
    return [{"criterion": each.text, "weight": each.weight, "factual": each.factual} for each in entries]


def has(prompt: Any, response: str, criterion: str, row: dict[str, Any]) -> Any:
    """Look for the last word among those of the response; a question mark cannot be decided."""
    assert row["rubric"]
    wanted = criterion.split()[-1]
    return None if "?" in response else wanted in response.split()


def rows(texts: list[str], extras: list[dict[str, Any]], anchors: tuple[str, ...] = ()) -> Rollout:
    ids = torch.ones(len(texts), 1, dtype=torch.long)
    turns = [({"role": "user", "content": "q"},)] * len(texts)
    return answered(PromptBatch(ids, ids.bool(), turns, [anchors] * len(texts), extras), texts)


def scored(*texts: str, factual: tuple[int, ...] = (), anchors: tuple[str, ...] = (), rule: Any = has) -> Any:
    extras = [{"rubric": column(*criteria(factual=factual))}] * len(texts)
    return RuleRubric(rule).score(rows(list(texts), extras, anchors))


def test_the_figures_of_the_paper() -> None:
    found = weigh(criteria(), [1, 0, 1])
    assert found.reward == pytest.approx(0.666667, abs=1e-6)
    assert found.rubric == found.reward == found.other
    assert math.isnan(found.factual)
    found = weigh(criteria(factual=(1, 3)), [1, 0, 1])
    assert found == (1.0, pytest.approx(0.666667, abs=1e-6), 1.0, 0.0)


def test_one_missing_fact_leaves_the_share() -> None:
    found = weigh(criteria(factual=(1, 3)), [0, 1, 1])
    assert found.reward == found.rubric == pytest.approx(0.5)
    assert (found.factual, found.other) == (pytest.approx(0.25), 1.0)


@given(
    kinds=st.lists(st.tuples(st.floats(1e-3, 1e3), st.booleans(), st.booleans()), min_size=1, max_size=6),
    scale=st.floats(1e-2, 1e2),
)
def test_a_reward_is_a_share_that_never_falls_with_a_criterion_and_knows_no_scale(kinds: Any, scale: float) -> None:
    entries = [Criterion("x", weight, factual) for weight, factual, _ in kinds]
    grades = [float(holds) for *_, holds in kinds]
    found = weigh(entries, grades)
    assert 0 <= found.rubric <= found.reward <= 1 + 1e-12
    scaled = weigh([each._replace(weight=each.weight * scale) for each in entries], grades)
    assert scaled.reward == pytest.approx(found.reward)
    for place in range(len(grades)):
        better = [*grades[:place], 1.0, *grades[place + 1 :]]
        assert weigh(entries, better).reward >= found.reward - 1e-12
    assert weigh(entries, [1.0] * len(grades)).reward == pytest.approx(1)


def test_a_rule_grades_each_criterion_and_the_kinds_are_logged() -> None:
    found = scored("1 3", "2", "1 2 3", "", factual=(1, 3))
    assert found.rewards.tolist() == pytest.approx([1, 2 / 6, 1, 0])
    shares = {name: values.tolist() for name, values in found.components.items()}
    assert shares == {
        "rubric": pytest.approx([4 / 6, 2 / 6, 1, 0]),
        "factual": pytest.approx([1, 0, 1, 0]),
        "other": pytest.approx([0, 1, 1, 0]),
    }
    assert found.verdict is None
    assert not RuleRubric(has).needs_anchors


def test_anchors_are_graded_too_and_say_who_won() -> None:
    found = scored("1 3 ", "2", anchors=("1", "1 2 3"))
    assert found.verdict.win_logit.tolist() == pytest.approx([1 / 6, -2 / 6, -1 / 6, -4 / 6])
    assert found.response_index.tolist() == [0, 0, 1, 1]
    assert found.components["rubric"].shape == (2,)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (has, "has returned None for the criterion 'has 3' of the response '1 .'; expected True or False"),
        (lambda *_: 1, "returned 1 for"),
        (lambda *_: "yes", "returned 'yes' for"),
        (lambda *_: {}["x"], "raised KeyError: 'x'"),
    ],
)
def test_a_response_without_all_grades_has_no_reward_and_the_reason_is_kept(rule: Any, reason: str) -> None:
    source = RuleRubric(rule)
    found = source.score(rows(["1 ?"], [{"rubric": column(*criteria(factual=(1,)))}]))
    assert found.failed.all()
    assert all(values.isnan().all() for values in found.components.values())
    assert re.search(reason, str(source.failure()))


def test_a_missing_grade_is_missing_even_where_all_facts_hold() -> None:
    assert all(map(math.isnan, weigh(criteria(factual=(1,)), [1, math.nan, 1])))


def test_each_prompt_has_its_own_criteria_and_equal_texts_are_graded_once() -> None:
    asked: list[Question] = []

    class Noting(RuleRubric):
        def grade(self, questions: list[Question]) -> list[list[float]]:
            asked.extend(questions)
            return super().grade(questions)

    extras = [{"rubric": column(*criteria((1.0,)))}] * 3 + [{"rubric": column(*criteria((1.0, 3.0)))}]
    found = Noting(has).score(rows(["1", " 1", "2", "1"], extras))
    assert found.rewards.tolist() == [1.0, 1.0, 0.0, 0.25]
    assert [(each.response, len(each.criteria)) for each in asked] == [("1", 1), ("2", 1), ("1", 2)]


def test_a_row_without_criteria_has_no_reward_outside_of_a_run() -> None:
    source = RuleRubric(has, column="items")
    found = source.score(rows(["1"], [{"rubric": []}]))
    assert found.failed.all()
    assert "Add the column 'items'" in str(source.failure())
    assert source.score(replace(rows(["1"], []))).failed.all()
    assert source.columns == ("items",)


def test_a_rubric_is_a_source_of_a_weighted_sum() -> None:
    source = WeightedReward({"rubric": RuleRubric(has)}, {"rubric": 2.0})
    found = source.score(rows(["1 3"], [{"rubric": json.loads(json.dumps(column(*criteria())))}]))
    assert found.rewards.tolist() == pytest.approx([2 * 4 / 6])
    assert set(found.components) == {"rubric", "rubric/rubric", "rubric/factual", "rubric/other"}
    assert [column for each in source.leaves() for column in each.columns] == ["rubric"]
