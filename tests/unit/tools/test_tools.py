"""Tools: what they answer, what they refuse, and that nothing a model writes gets further than a line of text."""

import json
import math
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.data.traces import CALL
from prl.system.restricted import Limits, RestrictedError, check_restricted
from prl.tools import Calculator, Calendar, Code, Search, Tool, ToolError, observe

# ---- calculator


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("347+285", "632"),
        (" 2 * (3 - 5) ", "-4"),
        ("7/2", "3.5"),
        ("6/3", "2"),
        ("7//2", "3"),
        ("-7 % 4", "1"),
        ("2^10", "1024"),
        ("2**-2", "0.25"),
        ("sqrt(2)", "1.414213562"),
        ("max(1, 2.5, -3) + abs(-4)", "6.5"),
        ("1/3", "0.3333333333"),
        ("0.1+0.2", "0.3"),
        ("10**49 + 1", "1" + "0" * 48 + "1"),
        ("0**5", "0"),
    ],
)
def test_the_calculator_computes(text: str, answer: str) -> None:
    assert Calculator().answer(text) == answer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("", "no arithmetic"),
        ("2 +", "no arithmetic"),
        ("'a'*3", "only numbers"),
        ("__import__('os')", "no function '__import__'"),
        ("(1).__class__", "only numbers"),
        ("[1][0]", "only numbers"),
        ("lambda: 1", "only numbers"),
        ("True", "only numbers"),
        ("1j", "only numbers"),
        ("round(1, ndigits=2)", "only numbers"),
        ("round(1, -4000000)", "round keeps at most 50 digits"),  # which takes seconds, and longer numbers hours
        ("9**9**9**9", "more than 50 digits"),
        ("10**50", "more than 50 digits"),
        ("99999999999999999999999999 * 99999999999999999999999999999", "more than 50 digits"),
        ("(-8)**0.5", "no real number"),
        ("1e308*10", "no real number"),
        ("sqrt(-1)", "no arithmetic"),
        ("sqrt(1, 2)", "no arithmetic"),
        ("1" * 300, "300 characters"),
        ("(" * 150 + "1", "no arithmetic"),
        ("1\x00", "no arithmetic"),
    ],
)
def test_the_calculator_refuses(text: str, words: str) -> None:
    with pytest.raises(ToolError, match=words.replace("*", r"\*")):
        Calculator().answer(text)


@given(st.integers(-(10**20), 10**20), st.integers(-(10**20), 10**20), st.sampled_from("+-*"))
def test_whole_numbers_are_exact(a: int, b: int, sign: str) -> None:
    assert Calculator().answer(f"({a}){sign}({b})") == str({"+": a + b, "-": a - b, "*": a * b}[sign])


@given(st.text(max_size=80))
def test_the_calculator_answers_or_refuses_whatever_is_written(text: str) -> None:
    with suppress(ToolError):
        assert Calculator().answer(text)


def test_settings_of_the_calculator() -> None:
    with pytest.raises(ToolError, match="limit is 5"):
        Calculator(longest=5).answer("1+1+1+1")
    with pytest.raises(ToolError, match="more than 3 digits"):
        Calculator(digits=3).answer("999+1")
    assert Calculator(digits=3).answer("998+1") == "999"
    with pytest.raises(ValueError, match="digits 0"):
        Calculator(digits=0)


# ---- calendar


def test_the_calendar_knows_leap_years() -> None:
    assert Calendar().answer("weekday 2024-02-29") == "Thursday"
    assert Calendar().answer("days 2024-02-28 2024-03-01") == "2"
    assert Calendar().answer("days 2024-03-01 2024-02-28") == "-2"
    assert Calendar().answer("add 2023-12-31 1") == "2024-01-01"


@given(st.dates(), st.integers(-3000, 3000))
def test_days_and_dates_agree(first: date, days: int) -> None:
    try:
        second = Calendar().answer(f"add {first} {days}")
    except ToolError:
        assert not date.min.toordinal() <= first.toordinal() + days <= date.max.toordinal()
        return
    assert Calendar().answer(f"days {first} {second}") == str(days)


@pytest.mark.parametrize("text", ["", "weekday tomorrow", "weekday 2023-02-29", "add 9999-12-31 1", "days 2024-01-01"])
def test_the_calendar_refuses(text: str) -> None:
    with pytest.raises(ToolError):
        Calendar().answer(text)


# ---- search


def written(folder: Path, *texts: str) -> str:
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_scores_are_those_of_bm25_by_hand(tmp_path: Path) -> None:
    search = Search(written(tmp_path, "the cat sat", "the dog", "a cat and a cat and a dog in a house"))
    lengths, mean = (3, 2, 11), 16 / 3
    rare = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # "cat" is in two of three
    expected = [
        rare * often * 2.5 / (often + 1.5 * (0.25 + 0.75 * length / mean)) if often else 0.0
        for often, length in zip((1, 0, 2), lengths, strict=True)
    ]
    assert search.scores("Cat") == pytest.approx(expected, abs=1e-12)
    assert search.scores("unicorn") == [0, 0, 0]
    assert search.answer("dog") == "the dog"
    flat = Search(search_path := str(tmp_path / "documents.jsonl"), k1=0.0).scores("cat")
    assert flat == pytest.approx([rare, 0, rare])
    assert Search(search_path, b=0.0).scores("cat")[0] == pytest.approx(rare)


def test_several_documents_and_none(tmp_path: Path) -> None:
    path = written(tmp_path, "red fox", "blue fox", "green hill")
    assert Search(path, results=2).answer("fox") == "red fox | blue fox"
    with pytest.raises(ToolError, match="no document"):
        Search(path).answer("whale!")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"text": "a"}\n{"title": "b"}\n', "line 2: no document"),
        ("no json\n", "line 1"),
        ('{"text": " "}\n', "line 1"),
        ("\n", "has no document"),
    ],
)
def test_files_that_hold_no_documents(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(ValueError, match=words):
        Search(str(tmp_path / "d.jsonl"))
    with pytest.raises(ValueError, match="cannot be read"):
        Search(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="b 2"):
        Search(str(tmp_path / "d.jsonl"), b=2)


# ---- code


def test_code_runs_in_the_restricted_process() -> None:
    try:
        check_restricted()
    except RestrictedError as error:
        pytest.skip(str(error))
    code = Code(Limits(wall_seconds=60))
    assert code.answer("x = 6\\nprint(x * 7)") == "42\n"
    with pytest.raises(ToolError, match="error: ZeroDivisionError"):
        code.answer("1/0")
    with pytest.raises(ToolError, match="refused: PermissionError"):
        code.answer("open('/etc/passwd')")


# ---- what a model reads


class Broken(Tool):
    def answer(self, text: str) -> str:
        raise RuntimeError("inner secrets")


class Talks(Tool):
    def answer(self, text: str) -> str:
        return "  one\n\ntwo " + "x" * 100


def test_half_a_surrogate_pair_reaches_no_tokenizer(tmp_path: Path) -> None:
    class Torn(Tool):
        def answer(self, text: str) -> str:
            return "a \ud800 b"

    assert observe({"torn": Torn()}, "torn", "", 99) == ("a ? b", False)
    path = tmp_path / "documents.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "other \\ud800 zz"}\n')
    with pytest.raises(ValueError, match="documents.jsonl, line 2: no document"):
        Search(str(path))


def test_a_line_of_documents_ends_where_json_lines_end(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text('{"text": "one\u2028two"}\n{"text": "three"}\n', encoding="utf-8")
    assert Search(str(path)).texts == ["one\u2028two", "three"]


def test_words_that_are_asked_for_twice_count_twice(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text('{"text": "cat dog"}\n{"text": "cat bird"}\n{"text": "fish"}\n')
    search = Search(str(path))
    twice, once, other = (search.scores(query) for query in ("cat dog cat", "cat dog", "cat"))
    assert twice == pytest.approx([a + b for a, b in zip(once, other, strict=True)])


def test_a_call_has_spaces_around_its_parts_and_a_line_full_of_them_takes_no_time() -> None:
    found = CALL.search("Look.\nAction:  sum \nAction Input: 1 + 2 \nObservation:")
    assert found is not None
    assert (found[1].strip(), found[2].strip()) == ("sum", "1 + 2")
    assert CALL.search("Action:" + " " * 200_000 + "x") is None  # cubic, this was hours


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("sum", "1+1", ("2", False)),
        ("sum", "1/0", ("Error: division by zero", True)),
        ("sums", "1+1", ("Error: there is no tool 'sums'; there are sum, broken, talks", True)),
        ("broken", "", ("Error: RuntimeError", True)),
        ("talks", "", (("one two " + "x" * 100)[:60], False)),
    ],
)
def test_an_observation_is_one_line_whatever_happens(name: str, text: str, expected: Any) -> None:
    tools = {"sum": Calculator(), "broken": Broken(), "talks": Talks()}
    assert observe(tools, name, text, 60) == expected
