"""Keywords by the example of RAKE's paper, and what is left of a text without them."""

from collections import Counter

import pytest

from prl.data.rows.records import PreferencePair
from prl.pairs.corruption import Corrupter, keywords, without

ABSTRACT = """
Compatibility of systems of linear constraints over the set of natural numbers. Criteria of compatibility of a system of
linear Diophantine equations, strict inequations, and nonstrict inequations are considered. Upper bounds for components
of a minimal set of solutions and algorithms of construction of minimal generating sets of solutions for all types of
systems are given. These criteria and the corresponding algorithms for constructing a minimal supporting set of
solutions can be used in solving all the considered types of systems and systems of mixed types."""
_STOPPED = "of over the a and are considered for construction all types given these can be used in mixed"
STOPPED = {*_STOPPED.split()}
TEXT = "Rome is the capital city of Italy, and the river Tiber runs through Rome.\n\nIt was founded 2800 years ago!"


def test_scores_are_those_of_the_paper() -> None:
    found = {each.text: each.score for each in keywords(ABSTRACT, STOPPED)}
    assert list(found)[:3] == ["minimal generating sets", "linear diophantine equations", "minimal supporting set"]
    expected = {"minimal generating sets": 8.7, "linear diophantine equations": 8.5, "minimal supporting set": 7.7}
    expected |= {"minimal set": 4.7, "linear constraints": 4.5, "natural numbers": 4.0, "strict inequations": 4.0}
    expected |= {"nonstrict inequations": 4.0, "upper bounds": 4.0, "corresponding algorithms": 3.5, "set": 2.0}
    expected |= {"algorithms": 1.5, "compatibility": 1.0, "systems": 1.0, "criteria": 1.0, "system": 1.0}
    for name, score in expected.items():
        assert found[name] == pytest.approx(score, abs=0.05), name
    (systems,) = (each for each in keywords(ABSTRACT, STOPPED) if each.text == "systems")
    assert [ABSTRACT[start:end] for start, end in systems.spans] == ["systems"] * 4


def test_every_occurrence_goes_and_the_rest_stays() -> None:
    found = {each.text: each for each in keywords(TEXT)}
    assert without(TEXT, [found["rome"], found["river tiber runs"]]) == (
        "is the capital city of Italy, and the through.\n\nIt was founded 2800 years ago!"
    )
    assert without(TEXT, []) == TEXT
    text = "A\n\nBig Cat, sat\nbig cat"
    assert without(text, [keywords(text)[0]]) == "A\n\n, sat"


def test_levels_remove_more_and_more_and_level_0_nothing() -> None:
    versions = Corrupter(levels=4).versions(TEXT)
    assert [*versions] == [0, 1, 2, 3]
    assert versions[0] == TEXT
    lengths = [len(each) for each in versions.values()]
    assert sorted(lengths, reverse=True) == lengths
    assert len({*lengths}) == 4
    ranked, counts = keywords(TEXT), [0, 1, 3, 4]  # of five
    assert len(ranked) == 5
    assert [without(TEXT, ranked[:count]) for count in counts] == [*versions.values()]


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("Paris", [0]),  # nothing would be left
        ("It is Paris", [0, 2]),  # one keyword is in no fourth
        ("to be or not to be", [0]),
        ("北京 是 中国 的 首都", [0]),  # one run of words, whose language has other stop words
    ],
)
def test_a_level_that_cannot_be_told_is_left_out(text: str, levels: list[int]) -> None:
    assert [*Corrupter(levels=4).versions(text)] == levels


def test_rows_depend_on_seed_and_number_alone() -> None:
    extra = {"topic": "a", "label": 0}
    pair = PreferencePair(({"role": "user", "content": "q"},), TEXT, "It is Paris", 0.7, 2.0, extra)
    corrupter = Corrupter()
    rows = [corrupter.row(pair, number) for number in range(200)]
    assert rows[7] == Corrupter().row(pair, 7)
    assert rows != [Corrupter(seed=1).row(pair, number) for number in range(200)]
    levels = Counter(row["level_chosen"] for row in rows)
    assert levels.keys() == {0, 1, 2, 3}
    assert min(levels.values()) > 25
    assert {row["level_rejected"] for row in rows} == {0, 2}
    same = [Corrupter().row(PreferencePair(pair.prompt, TEXT, TEXT + " "), number) for number in range(50)]
    assert 25 < sum(row["level_chosen"] != row["level_rejected"] for row in same) < 50
    for row in rows:
        assert row["corrupted_chosen"] == Corrupter().versions(TEXT)[row["level_chosen"]]
    assert rows[0].keys() == {
        *("topic", "prompt", "chosen", "rejected", "preference", "weight"),
        *("corrupted_chosen", "corrupted_rejected", "level_chosen", "level_rejected"),
    }
    (read,) = PreferencePair.parse(rows[0])
    assert (read.chosen, read.preference, read.weight) == (TEXT, 0.7, 2.0)
    assert corrupter.counts["responses with too few keywords for all levels"] == 200
    assert sum(count for name, count in corrupter.counts.items() if "at level" in name) == 400


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="levels is 1; expected at least 2"):
        Corrupter(levels=1)
    pair = PreferencePair(({"role": "user", "content": "q"},), "a b", "c", extra={"level_chosen": 2})
    with pytest.raises(ValueError, match="row 6 has a column 'level_chosen' already"):
        Corrupter().row(pair, 5)
