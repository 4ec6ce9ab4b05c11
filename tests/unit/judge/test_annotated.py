"""Judges of known rules on annotated pairs."""

import numpy as np
import pytest

from prl.data.rows.annotations import AnnotatedPair, Annotations
from prl.evaluation.judge.people import FIRST, MISSING, SECOND, TIE, people_report
from prl.judge.annotated import judge_annotated
from tests.helpers.pairs import QualityJudge
from tests.helpers.tiny import LengthJudge, PlantedJudge, PositionJudge

PROMPTS = [f"prompt {n}" for n in range(40)]


def annotated(rows: list[dict]) -> Annotations:
    annotations = Annotations()
    for row in rows:
        for record in AnnotatedPair.parse(row):
            annotations.add(record)
    return annotations


def rows_by_quality(turn: bool = False) -> list[dict]:
    """Pairs of one to four plus signs; the annotators are right, right and always for the first response."""
    rows = []
    for n, prompt in enumerate(PROMPTS):
        a, b = ("+" * (1 + n % 4), "+" * (4 - n % 4) + "x" * (n % 3))
        right = "tie" if a.count("+") == b.count("+") else "a" if a.count("+") > b.count("+") else "b"
        labels = {"ann": right, "bob": right, "cid": "a"}
        if turn:
            a, b, labels = b, a, {who: {"a": "b", "b": "a", "tie": "tie"}[said] for who, said in labels.items()}
        rows.append({"prompt": prompt, "response_a": a, "response_b": b, "labels": labels, "source": f"s{n % 2}"})
    return rows


def test_a_judge_that_knows_what_people_know() -> None:
    pairs = judge_annotated(QualityJudge(bias=3.0), annotated(rows_by_quality()))
    report = people_report(pairs, resamples=50)
    assert report["annotators"]["ann"]["judge_kappa"]["mean"] == 1
    assert report["annotators"]["cid"]["judge_kappa"]["mean"] == 0  # a constant
    assert report["base_rates"]["annotations"]["first"] > 0.5
    assert report["kappa"]["mean"] == 1
    assert pairs.sources[:2] == ["s0", "s1"]


def test_the_order_of_the_file_is_that_of_the_table() -> None:
    """Turning the file round turns the categories round, and no coefficient moves."""
    one, other = (judge_annotated(LengthJudge(), annotated(rows_by_quality(turn))) for turn in (False, True))
    swap = np.array([SECOND, FIRST, TIE, MISSING])
    assert (one.judge == swap[other.judge]).all()
    assert (one.said == swap[other.said]).all()
    assert (one.judge == one.longer).all()
    first, second = (people_report(each, resamples=50) for each in (one, other))
    assert first["kappa"] == pytest.approx(second["kappa"])


def test_chosen_and_rejected_are_put_in_a_drawn_order() -> None:
    """Without it all labels are one category, agreement by chance is complete and kappa is 0 or undefined."""
    rows = [{"prompt": prompt, "chosen": "+++", "rejected": "+xxx"} for prompt in PROMPTS]
    report = people_report(judge_annotated(QualityJudge(), annotated(rows)), resamples=50)
    assert report["kappa"]["mean"] == 1
    assert 0.3 < report["base_rates"]["majority"]["first"] < 0.7
    always = people_report(judge_annotated(LengthJudge(), annotated(rows)), resamples=50)
    assert always["kappa"]["mean"] < -0.9  # always wrong


def test_ties_of_the_judge() -> None:
    annotations = annotated(rows_by_quality())
    categories = [judge_annotated(QualityJudge(), annotations, margin).judge for margin in (0.0, 1.0, 3.0)]
    distance = np.array([abs(r["response_a"].count("+") - r["response_b"].count("+")) for r in rows_by_quality()])
    for margin, found in zip((0.0, 1.0, 3.0), categories, strict=True):
        assert ((found == TIE) == (distance <= margin)).all()
    assert (judge_annotated(PositionJudge(), annotations).judge == TIE).all()  # the two orders cancel


class BrokenJudge(PlantedJudge):
    def rule(self, first: str, second: str) -> float:
        return float("nan")


def test_a_broken_judge_is_no_judge() -> None:
    with pytest.raises(ValueError, match="40 of 40 margins are not finite numbers"):
        judge_annotated(BrokenJudge(), annotated(rows_by_quality()))
