"""What a referee is asked and how its answer is read; Kendall's tau by hand and beside torchmetrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torchmetrics.functional import kendall_rank_corrcoef

from prl.judge.referee_prompt import (
    check_scale,
    kendall_tau,
    read_scores,
    referee_prompt,
    shown_order,
    write_scores,
)

SCORES = st.lists(st.integers(-3, 3), min_size=2, max_size=6)
TURN = ({"role": "user", "content": "sort cab"},)


def test_tau_by_hand() -> None:
    gold = (4, 3, 2, 1)
    assert kendall_tau(gold, (9, 7, 8, 2)) == pytest.approx(0.666667, abs=1e-6)  # one pair of six is contrary
    assert kendall_tau(gold, (8, 6, 4, 2)) == 1
    assert kendall_tau(gold, (1, 2, 3, 4)) == -1
    assert kendall_tau(gold, (5, 5, 5, 5)) == 0
    assert kendall_tau(gold, (9, 9, 8, 2)) == pytest.approx(5 / 6)  # the tied pair is in the denominator
    assert kendall_tau((2, 2, 1), (3, 2, 1)) == pytest.approx(2 / 3)  # as one of the ranking is
    for wrong in ((1, 2), ()):
        with pytest.raises(ValueError, match="cannot be compared"):
            kendall_tau((1,), wrong)


@given(gold=st.permutations(range(5)), found=st.permutations(range(5)))
def test_tau_without_ties_is_that_of_torchmetrics(gold: list[int], found: list[int]) -> None:
    assert kendall_tau(gold, found) == pytest.approx(
        float(kendall_rank_corrcoef(tensor(found) * 1.0, tensor(gold) * 1.0))
    )


@given(pair=st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-3, 3), min_size=n, max_size=n)] * 2)))
def test_tau_is_symmetric_odd_and_within_bounds(pair: tuple[list[int], list[int]]) -> None:
    gold, found = pair
    tau = kendall_tau(gold, found)
    assert -1 <= tau <= 1
    assert tau == kendall_tau(found, gold) == -kendall_tau(gold, [-each for each in found])
    assert tau == kendall_tau(gold, [each**3 for each in found])  # the order alone counts


@given(gold=SCORES)
def test_what_is_written_for_a_ranking_is_read_as_its_order(gold: list[int]) -> None:
    found = read_scores(write_scores(gold), len(gold))
    assert found is not None
    assert kendall_tau(gold, found) == kendall_tau(gold, gold)


def test_a_perfect_answer_uses_the_whole_scale_evenly() -> None:
    assert write_scores((4.0, 2.0, 1.0, 3.0)) == "10 4 1 7"
    assert write_scores((0.9, 0.1, 0.9), scale=(0.0, 1.0)) == "1 0 1"
    assert write_scores((1, 1)) == "1 1"


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ("9 7 8", [9, 7, 8]),
        (" 9, 7.5;8 \n", [9, 7.5, 8]),
        ("The second is wrong.\n\n9 1 10", [9, 1, 10]),
        ("9 7 8\nas asked", None),
        ("Scores: 9 7 8", None),
        ("9 7", None),
        ("9 7 8 1", None),
        ("9 7 11", None),
        ("9 7 0.5", None),
        ("9 7 nan", None),
        ("9 7 1e0", None),
        ("9 7 ٣", None),
        ("9 7 " + "1" * 5000, None),
        ("", None),
    ],
)
def test_the_last_line_alone_is_read(answer: str, scores: list[float] | None) -> None:
    assert read_scores(answer, 3) == scores


def test_the_question_has_all_it_needs() -> None:
    (message,) = referee_prompt([*TURN, {"role": "assistant", "content": "abc"}], ["x", "y"], "Be strict.", (0.0, 5.0))
    text = message["content"]
    assert message["role"] == "user"
    assert text.startswith("Be strict.\n")
    assert "User: sort cab\n\nAssistant: abc" in text
    assert text.index("# Response 1\nx") < text.index("# Response 2\ny") < text.index("2 numbers from 0 to 5")


@given(texts=st.lists(st.text(max_size=3), min_size=1, max_size=6, unique=True), data=st.data())
def test_the_order_is_one_draw_of_the_texts(texts: list[str], data: st.DataObject) -> None:
    order = shown_order(TURN, texts)
    assert sorted(order) == list(range(len(texts)))
    other = data.draw(st.permutations(texts))
    assert [other[number] for number in shown_order(TURN, other)] == [texts[number] for number in order]


def test_no_place_is_preferred() -> None:
    firsts = [shown_order(({"role": "user", "content": str(number)},), ["a", "b"])[0] for number in range(400)]
    assert 150 < sum(firsts) < 250
    assert len({tuple(shown_order(TURN, "abcdef", seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("scale", [(1.0,), (2.0, 2.0), (3.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_a_scale_that_is_none_is_refused(scale: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"--scale is \[.*\]; expected two finite numbers"):
        check_scale("--scale", scale)
