"""Responses of players from files: by line or by prompt, of one model or several."""

from pathlib import Path

import pytest

from prl.arena.responses import Responses, read_responses, responses_in, write_responses
from prl.data import AnchoredPrompt

RECORDS = [record for text in ("one", "two", "three") for record in AnchoredPrompt.parse({"prompt": text})]


def test_lines_answer_the_prompts_in_order() -> None:
    rows = ["a ", [{"role": "assistant", "content": "b"}], {"response": "c", "score": 1}]
    assert responses_in(rows, RECORDS, "f")[""] == Responses(["a", "b", "c"], [True] * 3)


def test_rows_with_prompts_are_put_in_order_and_told_apart_by_model() -> None:
    asked = {name: [{"role": "user", "content": name}] for name in ("one", "two", "three")}
    rows = [{"prompt": asked[name], "response": f"{model} {name}", "model": model} for model in "xy" for name in asked]
    rows += [{"prompt": "two", "response": "y two", "model": "y"}, {"prompt": "four", "response": "-", "model": "x"}]
    found = responses_in(rows[::-1], RECORDS, "f")
    assert found["x"].texts == ["x one", "x two", "x three"]
    assert found["y"].texts == ["y one", "y two", "y three"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["a", "b"], "f has 2 responses to 3 prompts"),
        ([{"prompt": "one", "response": "a"}], "f has no response to prompt 2"),
        ([{"prompt": "one", "response": text} for text in "ab"], "f has 2 different responses to prompt 1"),
        (
            [{"prompt": "one", "response": "a"}, {"response": "b"}],
            "f, line 2 has no prompt, and the lines before have one",
        ),
        (["a", {"prompt": "one", "response": "b"}], "f, line 2 has a prompt, and the lines before have none"),
        ([{"response": 3}], "f, line 1: the response is '3'"),
        ([{"response": "a", "model": 3}], "f, line 1: model is 3"),
        ([{"prompt": 3, "response": "a"}], "f, line 1"),
        ([[{"role": "user", "content": "a"}]], "f, line 1: the response is"),
    ],
)
def test_what_cannot_be_read_is_named(rows, told) -> None:
    with pytest.raises(ValueError, match=told):
        responses_in(rows, RECORDS, "f")


def test_sampled_responses_are_kept_as_they_are(tmp_path: Path) -> None:
    responses = Responses(["a\u2028b", "", "c\n"], [True, False, True])
    assert read_responses(tmp_path / "x.jsonl") is None
    write_responses(tmp_path / "x.jsonl", RECORDS, responses)
    assert read_responses(tmp_path / "x.jsonl") == responses
