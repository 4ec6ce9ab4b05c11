"""The judge behind a server, against a small server that the test starts."""

import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.judge import EndpointJudge, JudgeTemplate
from tests.helpers.judge_server import TEMPLATE, serving

TURN = ({"role": "user", "content": "write"},)


@pytest.fixture
def server() -> Iterator[Any]:
    with serving() as found:
        yield found


def judge(server: Any, template: JudgeTemplate = TEMPLATE, **options: Any) -> EndpointJudge:
    found = EndpointJudge(f"{server.url}/", "some-model", template, **options)
    found.load()
    return found


@pytest.mark.parametrize("chat", [False, True])
def test_margins_are_those_of_the_served_log_probabilities(server, chat: bool) -> None:
    source = judge(server, JudgeTemplate(TEMPLATE.text, chat=chat), chat_template_kwargs={"enable_thinking": False})
    found = source.compare([TURN] * 2, ["abc", "a"], ["a", "abcd"])
    torch.testing.assert_close(found.win_logit, torch.tensor([2.0, -3.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.order_gap, torch.zeros(2), atol=1e-6, rtol=0)
    path, body, _ = server.seen[-1]
    assert path == ("/v1/chat/completions" if chat else "/v1/completions")
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some-model", 1, 0)
    assert body["top_logprobs" if chat else "logprobs"] == 20
    assert body.get("chat_template_kwargs") == ({"enable_thinking": False} if chat else None)


def test_a_word_below_the_listed_ones_is_bounded_by_the_last_of_them(server) -> None:
    source = judge(server)
    found = source.margins([(TURN, "certain", "no")])
    torch.testing.assert_close(found, torch.tensor([-0.001 + 7.0]))
    assert source.num_bounded == 1


def test_an_answer_without_either_word_is_a_failed_judgement(server) -> None:
    source = judge(server)
    found = source.compare([TURN] * 2, ["mumble", "abc"], ["a", "a"])
    assert found.judged.tolist() == [False, True]
    assert found.win_logit[1].item() == pytest.approx(2.0, abs=1e-5)
    assert "neither 'A' nor 'B' is among the listed tokens 'Well', 'Hmm'" in str(source.failure())


NUMBER = st.one_of(st.floats(), st.integers(), st.just(10**400), st.just(-(10**400)), st.none(), st.booleans())
LEAF = NUMBER | st.sampled_from(["A", "B", " A", "x"])
JSON = LEAF | st.lists(LEAF, max_size=2) | st.dictionaries(st.sampled_from("AB "), LEAF, max_size=2)
ENTRY = st.fixed_dictionaries({"token": JSON, "logprob": JSON}) | JSON
TOP = {
    True: st.builds(lambda top: {"content": [{"top_logprobs": top}]}, st.lists(ENTRY, max_size=3) | JSON),
    False: st.builds(
        lambda top: {"top_logprobs": top},
        st.lists(st.dictionaries(st.sampled_from("AB "), JSON, max_size=3) | JSON, max_size=2) | JSON,
    ),
}


@pytest.mark.parametrize("chat", [False, True])
@given(data=st.data())
def test_any_answer_is_a_margin_or_a_failed_judgement_with_a_reason(chat: bool, data: st.DataObject) -> None:
    source = EndpointJudge("http://h/v1", "m", JudgeTemplate(TEMPLATE.text, chat=chat))
    logprobs = data.draw(TOP[chat] | JSON)
    answer = data.draw(st.just({"choices": [{"logprobs": logprobs}]}) | JSON)
    source._server = SimpleNamespace(ask=lambda *_, **__: answer)  # type: ignore[assignment]
    margin = source._margin((TURN, "a", "b"), math.inf)
    if math.isnan(margin):
        assert re.match(r"(Value|Overflow)Error: ...", str(source.failure()))
    else:
        assert math.isfinite(margin)
        assert source.failure() is None


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ([{"token": 5, "logprob": -1.0}], "a listed token is '5'; expected text"),
        ([{"token": "A", "logprob": math.nan}], "the log-probability of 'A' is nan; expected a number up to 0"),
        ([{"token": "A", "logprob": None}], "the log-probability of 'A' is None"),
        ([{"token": "A", "logprob": 10**400}], "the log-probability of 'A' is 1000"),
        ([{"token": "A", "logprob": 3.0}], "the log-probability of 'A' is 3.0"),
        ([{"token": word, "logprob": -math.inf} for word in "AB"], "neither 'A' nor 'B' is among the listed tokens"),
        (None, "top_logprobs is 'None'; expected tokens and log-probabilities"),
        ([], "top_logprobs is '[]'; expected tokens"),
        ([["A", -1.0]], "expected entries with token and logprob"),
    ],
)
def test_a_server_that_does_not_judge_is_refused_with_what_is_wrong(server, top: Any, words: str) -> None:
    server.answer = {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
    with pytest.raises(ValueError, match=r"does not judge: ValueError: .*" + re.escape(words)):
        judge(server, JudgeTemplate(TEMPLATE.text, chat=True))


def test_an_impossible_word_is_bounded_like_one_that_is_not_listed(server) -> None:
    top = [{"token": "A", "logprob": -0.5}, {"token": "x", "logprob": -2.0}, {"token": "B", "logprob": -math.inf}]
    server.answer = {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
    source = judge(server, JudgeTemplate(TEMPLATE.text, chat=True))
    assert source.margins([(TURN, "a", "b")]).tolist() == [1.5]


def test_a_busy_server_is_asked_again_and_a_refusal_is_a_failed_judgement(server) -> None:
    source = judge(server, retries=2)
    assert source.margins([(TURN, "busy", "a")]).tolist() == pytest.approx([3.0], abs=1e-5)
    assert judge(server, retries=0).margins([(TURN, "busy now", "a")]).isnan().all()
    assert source.margins([(TURN, "broken", "a")]).isnan().all()
    assert "answered 400" in str(source.failure())


def test_the_key_is_read_from_the_environment(server, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    judge(server, api_key_env="MY_KEY").margins([(TURN, "a", "b")])
    assert server.seen[-1][2] == "Bearer secret"
    assert "secret" not in repr(vars(judge(server)))


def test_a_server_that_is_not_there_is_named_before_training(server) -> None:
    found = EndpointJudge("http://127.0.0.1:9/v1", "m", TEMPLATE, retries=0)
    with pytest.raises(ValueError, match=r"the judge at http://127.0.0.1:9/v1 does not judge: .*Connection"):
        found.load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url is 'localhost:8000'"),
        ({"top_logprobs": 1}, "top_logprobs is 1"),
        ({"template": JudgeTemplate(TEMPLATE.text, answer_prefix="So: ")}, "answer_prefix cannot be sent"),
    ],
)
def test_settings_that_cannot_work_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointJudge(**{"base_url": "http://h/v1", "model": "m", **options})
