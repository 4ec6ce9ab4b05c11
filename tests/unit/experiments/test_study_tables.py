"""Differences and verdicts by hand, the tables of every run, and the page that they are written into."""

from itertools import pairwise

import pytest

from benchmarks.runs import UNTIL
from experiments import ablations, alarms, anchors, best_of_n, iterative_dpo, judges, pages, policies, real_model
from experiments.verdicts import every_run, judge_tables, paired_difference, search_table, verdict

STUDIES = {module: module.__name__.rpartition(".")[2] for module in (
    ablations, alarms, anchors, best_of_n, iterative_dpo, judges, policies, real_model,
)}  # fmt: skip


def lines_of(variant: str, **figures: list[float]) -> list[dict]:
    seeds = range(len(next(iter(figures.values()))))
    return [{"variant": variant, "seed": s, **{k: v[s] for k, v in figures.items()}} for s in seeds]


def test_difference_is_paired_by_seed_with_students_interval() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, t(2) = 4.303, half 4.303 × 0.1 / √3 = 0.248."""
    one, other = lines_of("x", accuracy=[0.6, 0.8, 1.0]), lines_of("y", accuracy=[0.5, 0.6, 0.7])
    assert paired_difference(one, other[::-1], "accuracy") == (pytest.approx(0.2), pytest.approx(0.2484, abs=1e-4))
    assert paired_difference(one, other[:2], "accuracy")[0] == pytest.approx(0.15)
    with pytest.raises(ValueError, match="1 seeds in common"):
        paired_difference(one, other[:1], "accuracy")


@pytest.mark.parametrize(
    ("difference", "higher_is_better", "expected"),
    [(0.2, True, "supported"), (0.2, False, "contradicted"), (-0.2, True, "contradicted"), (-0.2, False, "supported"),
     (0.1, True, "open"), (-0.1, False, "open")],
)  # fmt: skip
def test_a_verdict_needs_more_than_the_interval(difference: float, higher_is_better: bool, expected: str) -> None:
    assert verdict(difference, 0.1, higher_is_better=higher_is_better) == expected


def test_judges_that_are_ahead_in_accuracy_and_behind_in_likelihood() -> None:
    same = {
        "nll_after_temperature": [0.1, 0.1],
        "ece": [0.1, 0.1],
        "ece_after_temperature": [0.1, 0.1],
        "order_gap": [0.0, 0.0],
        "seconds": [9.0, 9.0],
    }
    one = lines_of("cell: one", accuracy=[0.8, 0.9], nll=[0.5, 0.6], **same)
    other = lines_of("cell: other", accuracy=[0.7, 0.8], nll=[0.4, 0.5], **same)
    text = judge_tables([*one, *other], ["cell", "never run"], ["one", "other"])
    wanted = "| cell | one | other | +0.100 ± 0.000, supported | +0.100 ± 0.000, contradicted |"
    assert wanted + " +0.000 ± 0.000, open |" * 3 in text
    assert "never run" not in text


def test_every_run_is_in_the_table_and_a_missing_one_is_empty() -> None:
    lines = [*lines_of("a | judge 0", gold=[0.1, 0.2]), *lines_of("b", gold=[0.3])]
    assert every_run(lines, "gold").splitlines()[2:] == ["| a, judge 0 | 0.100 | 0.200 |", "| b | 0.300 |  |"]


def test_settings_of_a_search_are_in_the_order_of_their_size() -> None:
    lines = [{"variant": f"tuning supervised: a {rate}", "nll": nll} for rate, nll in ((0.003, 0.5), (0.00075, 0.4))]
    shown = ["| supervised: a | 0.400 at 0.00075, 0.500 at 0.003 |"]
    assert search_table(lines, "nll").splitlines()[2:] == shown
    others = [{"variant": "b 0.1", "nll": 0.1}]
    assert search_table(lines + others, "nll", ["supervised: a"]).splitlines()[2:] == shown


@pytest.mark.parametrize("module", STUDIES, ids=STUDIES.values())
def test_every_study_has_a_place_in_its_page_and_changes_nothing_else(module, tmp_path, monkeypatch, capsys) -> None:
    study, text = STUDIES[module], {path.name: path.read_text(encoding="utf-8") for path in pages.PAGES.glob("*.md")}
    for name, each in text.items():
        (tmp_path / name).write_text(each, encoding="utf-8")
    monkeypatch.setattr(pages, "PAGES", tmp_path)
    page = "policies" if study in ("best_of_n", "iterative_dpo") else study
    pages.publish(study, "| found |\n", "more", page=page)
    assert capsys.readouterr().out == "| found |\n\nmore\n"
    changed = [name for name, each in text.items() if (tmp_path / name).read_text(encoding="utf-8") != each]
    assert changed == [f"{page}.md"]
    mark = f"<!-- written by python -m experiments.{study} -->"
    before, after = text[f"{page}.md"].split(mark)
    now = (tmp_path / f"{page}.md").read_text(encoding="utf-8")
    assert now == f"{before}{mark}\n\n| found |\n\nmore\n\n{UNTIL}{after.partition(UNTIL)[2]}"


def test_pages_have_one_place_after_another() -> None:
    for path in pages.PAGES.glob("*.md"):
        marks = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("<!--")]
        assert len(marks) % 2 == 0
        assert all((one == UNTIL) != (other == UNTIL) for one, other in pairwise(marks)), path
