import re
from dataclasses import FrozenInstanceError

import pytest

from prl.data.rows.records import AnchoredPrompt, Demonstration, PreferencePair, RowError, prompt_key


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


DIALOGUES = {"chosen": [user("Hi?"), assistant("Hello.")], "rejected": [user("Hi?"), assistant("Go away.")]}
PAIR = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."}
CANONICAL_PAIR = PreferencePair((user("Hi?"),), "Hello.", "Go away.")


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        PAIR | {"prompt": [user("Hi?")]},
        PAIR | {"chosen": [assistant("Hello.")], "rejected": [assistant("Go away.")]},
        PAIR | DIALOGUES,
        DIALOGUES,
        DIALOGUES | {"prompt": None},
        PAIR | {"chosen": "\nHello. \n", "weight": None},
    ],
    ids=["strings", "messages", "response lists", "prompt repeated", "implicit", "implicit, null prompt", "stripped"],
)
def test_every_shape_of_a_pair_gives_the_same_record(row):
    assert PreferencePair.parse(row) == [CANONICAL_PAIR]


def test_implicit_prompt_is_cut_at_the_first_difference():
    dialogue = [{"role": "system", "content": "Be kind."}, user("a"), assistant("b"), user("c")]
    [pair] = PreferencePair.parse({"chosen": [*dialogue, assistant("d")], "rejected": [*dialogue, assistant("e")]})
    assert pair.prompt == tuple(dialogue)
    assert (pair.chosen, pair.rejected) == ("d", "e")


def test_prompt_white_space_and_unknown_columns_are_kept():
    [pair] = PreferencePair.parse(PAIR | {"prompt": " Hi?\n", "preference": 0, "source": "web", "empty": None})
    assert pair.prompt == (user(" Hi?\n"),)
    assert pair.preference == 0.0
    assert pair.extra == {"source": "web"}


def test_messages_keep_role_and_content_only():
    [pair] = PreferencePair.parse(PAIR | {"prompt": [user("Hi?") | {"name": "Ann"}]})
    assert pair.prompt == (user("Hi?"),)


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        CANONICAL_PAIR.chosen = "x"


@pytest.mark.parametrize(
    ("columns", "anchors"),
    [
        ({}, ()),
        ({"anchor": None}, ()),
        ({"anchor": []}, ()),
        ({"anchor": " one "}, ("one",)),
        ({"anchor": ["one", " two"]}, ("one", "two")),
        ({"anchors": ["one", [assistant("two")]]}, ("one", "two")),
        ({"anchor": [assistant("one")]}, ("one",)),
    ],
)
def test_anchor_shapes(columns, anchors):
    assert AnchoredPrompt.parse({"prompt": "Hi?"} | columns) == [AnchoredPrompt((user("Hi?"),), anchors)]
    assert AnchoredPrompt.parse({"messages": [user("Hi?")]} | columns) == [AnchoredPrompt((user("Hi?"),), anchors)]


def test_a_prompt_wins_over_messages() -> None:
    [record] = AnchoredPrompt.parse({"prompt": "Hi?", "messages": [user("Hi?"), assistant("Hello.")]})
    assert record.prompt == (user("Hi?"),)
    assert record.extra == {"messages": [user("Hi?"), assistant("Hello.")]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi?", "completion": "Hello."},
        {"prompt": [user("Hi?")], "completion": [assistant(" Hello.")]},
        {"messages": [user("Hi?"), assistant("Hello.")]},
    ],
)
def test_demonstration_shapes(row):
    assert Demonstration.parse(row) == [Demonstration((user("Hi?"),), "Hello.")]


def test_completion_wins_over_messages_which_stay_unread():
    messages = [user("not"), assistant("read")]
    [record] = Demonstration.parse({"prompt": "Hi?", "completion": "Hello.", "messages": messages})
    assert record == Demonstration((user("Hi?"),), "Hello.", {"messages": messages})


EMPTY = "field '{}': found '{}' (empty text); expected non-empty text. Give it a {} or remove the row."
SHARED = [user("Hi?"), assistant("a"), user("b")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": ""}, EMPTY.format("chosen", "", "response")),
        ({"rejected": " \n"}, EMPTY.format("rejected", " \\n", "response")),
        ({"prompt": "  "}, EMPTY.format("prompt", "  ", "text")),
        ({"prompt": [user("")]}, EMPTY.format("prompt[0].content", "", "text")),
        ({"chosen": None}, "field 'chosen': found null (no value); expected a value."),
        ({"chosen": 4}, "field 'chosen': found 4 (wrong type); expected text or a list with one assistant message."),
        ({"prompt": {"a": 1}}, "field 'prompt': found {'a': 1} (wrong type); expected text or a list of messages."),
        ({"prompt": [user(None)]}, "field 'prompt[0].content': found None (wrong type); expected text."),
        ({"rejected": "Hello. "}, "field 'rejected': found 'Hello.' (chosen equals rejected); expected two different"),
        (
            {"preference": float("nan")},
            "field 'preference': found nan (invalid preference); expected a number from 0 to 1",
        ),
        ({"preference": 1.5}, "found 1.5 (invalid preference)"),
        ({"preference": -0.1}, "found -0.1 (invalid preference)"),
        ({"preference": "0.5"}, "found '0.5' (invalid preference)"),
        ({"preference": True}, "found True (invalid preference)"),
        (
            {"prompt": [{"role": "human", "content": "Hi?"}]},
            "field 'prompt[0].role': found 'human' (unknown role); expected one of system, user, assistant, tool.",
        ),
        (
            {"prompt": [{"from": "robot", "value": "Hi?"}]},
            "field 'prompt[0].from': found 'robot' (unknown role); expected one of human, gpt, system, user, assistant",
        ),
        ({"prompt": [{"from": "human", "text": "Hi?"}]}, "found {'from': 'human', 'text': 'Hi?'} (not a message)"),
        ({"prompt": [{"from": "human", "value": " "}]}, "field 'prompt[0].value': found ' ' (empty text)"),
        ({"prompt": [{"role": ["user"], "content": "a"}]}, "field 'prompt[0].role': found ['user'] (unknown role)"),
        ({"prompt": ["Hi?"]}, "field 'prompt[0]': found 'Hi?' (not a message); expected a message {'role': ..., 'con"),
        ({"prompt": []}, "field 'prompt': found [] (empty message list)"),
        ({"prompt": [user("a"), assistant("b")]}, "field 'prompt': found 'b' (assistant turn ends the prompt)"),
        ({"chosen": [user("a")]}, "field 'chosen': found messages of user (not one assistant message)"),
        (
            {"chosen": [user("other"), assistant("a")]},
            "found messages of user, assistant, which do not begin with the prompt (not one assistant message)",
        ),
        ({"prompt": "a\ud800"}, "field 'prompt': found the lone surrogate '\\ud800' at character 1 (undecodable text)"),
    ],
)
def test_a_bad_pair_is_explained(change, message):
    with pytest.raises(RowError, match=re.escape(message)):
        PreferencePair.parse(PAIR | change)


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        ([user("a"), assistant("x")], [user("b"), assistant("y")], "field 'rejected': found no common first message"),
        ([*SHARED, assistant("x")], [*SHARED, assistant("x ")], "(chosen equals rejected)"),
        ([*SHARED, assistant("x")], [*SHARED, assistant("x")], "(chosen equals rejected)"),
        (
            [*SHARED, assistant("x")],
            [*SHARED, assistant("y"), user("z")],
            "found messages of assistant, user after the",
        ),
        (
            [*SHARED[:2], assistant("x")],
            [*SHARED[:2], assistant("y")],
            "field 'chosen': found 'a' (assistant turn ends",
        ),
        ([user("a")], [user("a"), assistant("x")], "(no shared prompt)"),
        ([], [user("a"), assistant("x")], "field 'chosen': found [] (empty message list)"),
    ],
)
def test_a_bad_implicit_prompt_is_explained(chosen, rejected, message):
    with pytest.raises(RowError, match=re.escape(message)):
        PreferencePair.parse({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            PreferencePair,
            {"prompt": "a", "chosen": "b", "reject": "c"},
            "field 'rejected': found columns 'prompt', 'chosen', 'reject' (missing column); expected the columns "
            "prompt, chosen and rejected. Add the column or map it: columns: {rejected: reject}.",
        ),
        (
            PreferencePair,
            {"question": "a", "good": "b", "Bad": "c"},
            "Add the columns or map them: columns: {prompt: question, chosen: good, rejected: Bad}.",
        ),
        (
            PreferencePair,
            {"chosen": "b", "rejected": "c"},
            "field 'prompt': found columns 'chosen', 'rejected' (missing column); expected chosen and rejected as "
            "message lists or transcripts that begin with the same prompt. Add the column or map it: columns: {prompt: "
            "<column in",
        ),
        (AnchoredPrompt, {}, "field 'prompt': found columns none (missing column); expected the column prompt."),
        (
            Demonstration,
            {"prompt": "a"},
            "field 'completion': found columns 'prompt' (missing column); expected the col",
        ),
    ],
)
def test_a_missing_column_shows_what_is_there(kind, row, message):
    with pytest.raises(RowError, match=re.escape(message)):
        kind.parse(row)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (AnchoredPrompt, {"prompt": "a", "anchor": ["x", ""]}, "field 'anchor[1]': found '' (empty text)"),
        (AnchoredPrompt, {"prompt": "a", "anchor": 3}, "field 'anchor': found 3 (wrong type)"),
        (AnchoredPrompt, {"messages": [user("a"), assistant("b")]}, "field 'messages': found "),
        (AnchoredPrompt, {"messages": "a"}, "field 'messages': found 'a' ("),
        (Demonstration, {"messages": [assistant("x")]}, "field 'messages': found one message (no prompt)"),
        (
            Demonstration,
            {"messages": [user("a"), user("b")]},
            "field 'messages': found messages of user after the prompt (not one",
        ),
        (Demonstration, {"messages": "a"}, "field 'messages': found 'a' (wrong type); expected a list of messages."),
    ],
)
def test_other_bad_rows_are_explained(kind, row, message):
    with pytest.raises(RowError, match=re.escape(message)):
        kind.parse(row)


def test_long_values_are_shortened_in_messages():
    with pytest.raises(RowError) as caught:
        PreferencePair.parse(PAIR | {"chosen": "x" * 1000, "rejected": "x" * 1000})
    assert len(str(caught.value)) < 300


def test_prompt_key_follows_content_only():
    key = prompt_key([user("Hi?")])
    assert key == prompt_key(({"content": "Hi?", "role": "user"},))
    assert len({key, prompt_key([user("Hi? ")]), prompt_key([assistant("Hi?")]), prompt_key([user("Hi?")] * 2)}) == 4
