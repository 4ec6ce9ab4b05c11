"""The judge of steps behind a server, against a small server that the test starts."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.judge import ThoughtProcessJudge
from prl.judge.thought_process import content_of, parse_marks
from prl.rewards import RuleReward
from tests.helpers.server import JSONHandler, listening
from tests.unit.rewards.test_step_marks import TOKENIZER, length, rollout


class Handler(JSONHandler):
    """Finds steps with a `?` wrong; words of the solution ask for trouble."""

    def do_POST(self) -> None:
        body = self.body()
        server: Any = self.server
        server.seen.append((self.path, body))
        text = body["messages"][0]["content"]
        steps = [each.partition("\n")[2].partition("\nThink first")[0] for each in text.split("## Step ")[1:]]
        if "broken" in text:
            self.reply(400, {"error": "bad prompt"})
            return
        marks = [int("?" not in step) for step in steps]
        content = f"Not [0, 0], I think. Final: {marks}."
        if "mumble" in text:
            content = "Who knows?"
        if "short" in text:
            content = f"{marks} or {marks[1:]}"
        reason = "length" if "long" in text else "stop"
        self.reply(200, {"choices": [{"message": {"content": content}, "finish_reason": reason}]})


@pytest.fixture
def server() -> Iterator[Any]:
    with listening(Handler) as found:
        yield found


def judge(server: Any, **options: Any) -> ThoughtProcessJudge:
    found = ThoughtProcessJudge(RuleReward(length), f"{server.root}/v1/", "some-model", retries=0, **options)
    found.attach_tokenizer(TOKENIZER, 64)
    found.load()
    found.load()
    return found


def test_steps_are_shown_and_marks_are_read(server: Any) -> None:
    source = judge(server, correct_above=5.0, max_tokens=77, chat_template_kwargs={"enable_thinking": True})
    assert len(server.seen) == 1  # a trial before the first rollout
    rows = [{"answer": "d"}, {}]
    found = source.score(rollout(["ab\n\nc?\n\nd", "e?"], rows))
    assert found.step_marks is not None
    assert found.step_marks[0].tolist() == [1.0] * 4 + [0.0] * 4 + [1.0] * 2
    assert found.step_marks[1, :3].tolist() == [0.0] * 3
    assert found.rewards.tolist() == [9.0, 2.0]
    assert found.components["steps_unmarked"].tolist() == [0.0, 0.0]
    path, body = server.seen[1]
    asked = {each["messages"][0]["content"]: each for _, each in server.seen[1:]}
    text, other = sorted(asked, key=lambda each: "e?" in each)
    assert path == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some-model", 77, 0)
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert "prompt 0" in text
    assert "# Right answer\nd\n" in text
    assert "## Step 1\nab\n" in text
    assert "## Step 3\nd\n" in text
    assert "each of the 3 steps" in text
    assert "final answer is right" in text
    assert "Right answer" not in other
    assert "final answer is wrong" in other
    assert source.marks_steps


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("mumble", "the answer ends 'Who knows?'; expected a list of 0 and 1"),
        ("short", "the last list of the answer has 1 marks for 2 steps"),
        ("long", "the answer was cut off; raise ThoughtProcessJudge.max_tokens"),
        ("broken", "answered 400"),
    ],
)
def test_an_answer_without_marks_is_counted_and_never_replaced(
    server: Any, word: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = judge(server)
    found = source.score(rollout([f"a\n\n{word}", "a\n\nb"]))
    assert found.step_marks is not None
    assert found.step_marks[0].isnan().all()
    assert found.components["steps_unmarked"].tolist() == [1.0, 0.0]
    assert torch.equal(found.rewards, torch.tensor([float(len(word) + 3), 4.0]))
    assert reason in str(source.failure())
    assert "1 of 2 responses have no marks of steps" in caplog.text


def test_a_server_that_does_not_mark_is_refused_when_it_is_loaded(server: Any) -> None:
    with pytest.raises(ValueError, match=r"the judge at .* does not mark steps: .*expected a list of 0 and 1"):
        judge(server, template="mumble {{ prompt }} {{ steps | join }}")
    nowhere = ThoughtProcessJudge(RuleReward(length), "http://127.0.0.1:9/v1", "m", retries=0, timeout=1.0)
    nowhere.attach_tokenizer(TOKENIZER, 64)
    with pytest.raises(ValueError, match="does not mark steps: ServerError"):
        nowhere.load()


@given(marks=st.lists(st.integers(0, 1), min_size=1, max_size=9), before=st.text(), behind=st.text(max_size=9))
def test_the_last_list_counts(marks: list[int], before: str, behind: str) -> None:
    if "[" not in behind and "]" not in behind:
        assert parse_marks(f"{before} {marks} {behind}", len(marks)) == marks


@pytest.mark.parametrize("text", ["", "[]", "[2, 0]", "[1 0]", "1, 0", "[1, 0", "[true, false]", "[0.5, 1]"])
def test_what_is_no_list_of_marks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a list of 0 and 1"):
        parse_marks(text, 2)


json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["choices", "message", "content", "finish_reason"]), inner, max_size=2),
    ),
)


@given(answer=json)
def test_an_answer_may_be_anything(answer: Any) -> None:
    try:
        assert isinstance(content_of(answer), str)
    except ValueError as error:
        assert "expected a text at choices.0.message.content" in str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"template": "{{ prompt"}, "ThoughtProcessJudge.template is not a Jinja template"),
        ({"template": "{{ prompt }}"}, "ThoughtProcessJudge.template leaves out <first step>; expected"),
        ({"template": "{{ steps | join }}"}, "leaves out <prompt>"),
        ({"template": "{% if answer %}{{ prompt }}{% endif %}{{ steps | join }}"}, "leaves out <prompt>"),
        ({"template": "{{ prompt }}{{ 1 / 0 }}"}, "ThoughtProcessJudge.template cannot be rendered"),
        ({"correct_above": float("nan")}, "ThoughtProcessJudge.correct_above is nan; expected a finite number"),
        ({"max_tokens": 0}, "ThoughtProcessJudge.max_tokens is 0; expected at least 1"),
        ({"separator": ""}, "ThoughtProcessJudge.separator is empty"),
        ({"concurrency": 0}, "concurrency is 0; expected at least 1"),
        ({"base_url": "there"}, "base_url is 'there'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ThoughtProcessJudge(RuleReward(length), **{"base_url": "http://127.0.0.1:9/v1", "model": "m", **settings})
