"""Every accepted shape of a preference row, and what is said of rows that have none or two."""

import gzip
import json
import math
import os
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import datasets
import hypothesis.strategies as st
import pytest
from hypothesis import given

from prl.data import DataError, DataSource, PreferencePair, load_records
from prl.data.rows.records import AnchoredPrompt, Demonstration, RowError

SPEAKERS = {"user": "Human", "assistant": "Assistant"}
PAIR = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."}
SIDES = {"prompt": "Hi?", "response_a": "Hello.", "response_b": "Go away."}
ANCHORED = {"prompt": "Hi?", "response": "Hello.", "anchor": "Go away."}
RANKED = {"prompt": "Hi?", "completions": ["x", "y", "z"]}
DIALOGUES_OF_TRL = {
    "chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}],
    "rejected": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Go away."}],
}
PROMPT = ({"role": "user", "content": "Hi?"},)


def sharegpt(messages):
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names.get(m["role"], m["role"]), "value": m["content"]} for m in messages]


def transcript(messages):
    return "".join(f"\n\n{SPEAKERS[m['role']]}: {m['content']}" for m in messages)


def shape_of(raw, kind=PreferencePair):
    row = kind.row(raw)
    kind.from_row(row)
    return row.shape, row.label


# Text of a turn: no mark of a transcript, not empty, and no white space at the ends, which responses lose.
text = st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool).filter(lambda t: "\n\n" not in t)


@st.composite
def pairs(draw):
    """Draw a prompt that ends in a user turn, two different responses and a label."""
    turns = draw(st.lists(text, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
    prompt = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    first, second = draw(st.lists(text, min_size=2, max_size=2, unique=True))
    return prompt, first, second, draw(st.floats(0, 1))


def written(prompt, first, second, preference):
    """One pair in every shape that can hold it, by the name that the report gives the shape."""
    answer = [[*prompt, {"role": "assistant", "content": response}] for response in (first, second)]
    label = {"preference": preference}
    shapes = {
        "prompt, chosen, rejected": {"prompt": prompt, "chosen": first, "rejected": second},
        "chosen, rejected (messages)": {"chosen": answer[0], "rejected": answer[1]},
        "chosen, rejected (transcripts)": {"chosen": transcript(answer[0]), "rejected": transcript(answer[1])},
        "prompt, response_a, response_b": {"prompt": sharegpt(prompt), "response_a": first, "response_b": answer[1]},
        "response_a, response_b (messages)": {"response_a": sharegpt(answer[0]), "response_b": answer[1]},
        "prompt, response, anchor": {"prompt": prompt, "response": first, "anchor": second},
        "prompt, response, baseline_answer": {"prompt": prompt, "response": first, "baseline_answer": second},
        "prompt, response, reference": {"prompt": prompt, "response": sharegpt(answer[0]), "reference": second},
    }
    return {name: columns | label for name, columns in shapes.items()}


@given(pairs())
def test_a_pair_is_the_same_record_in_every_shape(pair) -> None:
    prompt, first, second, preference = pair
    expected = PreferencePair(tuple(prompt), first, second, preference)
    for name, raw in written(*pair).items():
        assert PreferencePair.parse(raw) == [expected], name
        assert shape_of(raw) == (name, "preference")


@pytest.mark.parametrize(
    ("label", "preference"),
    [
        ({"preference": 0.25}, 0.25),
        ({"label": 0}, 0.0),
        ({"label": 1}, 1.0),
        ({"label": 0.3}, 0.3),
        ({"margin": 0}, 0.5),
        ({"margin": math.log(3)}, pytest.approx(0.75)),
        ({"margin": -math.log(3)}, pytest.approx(0.25)),
        ({"margin": 1e300}, 1.0),
        ({"margin": -1e300}, 0.0),
    ],
)
def test_labels_say_how_likely_the_first_response_is_better(label, preference) -> None:
    name = next(iter(label))
    for columns in (PAIR, SIDES, ANCHORED):
        if columns is PAIR and label.get("margin", 1) <= 0:
            continue  # refused: see below
        [pair] = PreferencePair.parse(columns | label)
        assert (pair.chosen, pair.rejected, pair.preference, pair.extra) == ("Hello.", "Go away.", preference, {})
        assert shape_of(columns | label)[1] == (name if name != "margin" else "margin, as log-odds")


@pytest.mark.parametrize("margin", [0, -0.0, -1, -1e-300, Decimal("-0.5")])
def test_a_margin_never_turns_a_pair_round(margin) -> None:
    with pytest.raises(
        RowError, match=r"\(ambiguous margin\).* TRL adds .* columns: {margin: null}.*swap the two resp"
    ):
        PreferencePair.parse(PAIR | {"margin": margin})
    assert PreferencePair.parse(DIALOGUES_OF_TRL | {"margin": 0.1})[0].preference > 0.5


def test_a_ranked_list_is_not_of_any_length() -> None:
    ranked = {"prompt": "Hi?", "completions": [f"{i}" for i in range(128)], "rank": list(range(128))}
    assert len(PreferencePair.parse(ranked)) == 128 * 127 // 2
    ranked = {"prompt": "Hi?", "completions": [f"{i}" for i in range(129)], "rank": list(range(129))}
    with pytest.raises(
        RowError, match=r"field 'completions': found 129 of them \(too many completions\).* at most 128\."
    ):
        PreferencePair.parse(ranked)


@pytest.mark.parametrize(
    ("winner", "preference"),
    [("a", 1), ("b", 0), ("tie", 0.5), ("A", 1), ("model_a", 1), ("model_b", 0), ("tie (bothbad)", 0.5)],
)
def test_a_winner_is_a_label(winner, preference) -> None:
    [pair] = PreferencePair.parse(SIDES | {"winner": winner})
    assert (pair.chosen, pair.rejected, pair.preference) == ("Hello.", "Go away.", preference)


def test_empty_labels_of_other_rows_say_nothing() -> None:
    assert (
        PreferencePair.parse(PAIR | {"preference": 0.7, "label": None, "margin": None, "winner": None})[0].preference
        == 0.7
    )
    assert PreferencePair.parse(PAIR | {"winner": None})[0].preference == 1.0
    assert PreferencePair.parse(RANKED | {"rank": [1, 1, 2], "label": None, "scores": None})[0].preference == 1.0


def test_a_weight_is_kept() -> None:
    assert PreferencePair.parse(PAIR | {"weight": 2})[0].weight == 2.0
    assert PreferencePair.parse(PAIR)[0].weight == 1.0
    for extreme in (3.4e38, 2e-45):  # the ends of float32
        assert PreferencePair.parse(PAIR | {"weight": extreme})[0].weight == extreme


def test_other_columns_are_extra_and_a_lone_column_of_another_shape_is_no_shape() -> None:
    [pair] = PreferencePair.parse(PAIR | {"reference": "a book", "completions": 3, "source": "web"})
    assert pair == PreferencePair(PROMPT, "Hello.", "Go away.", extra=pair.extra)
    assert pair.extra == {"reference": "a book", "completions": 3, "source": "web"}


@pytest.mark.parametrize(
    ("order", "numbers", "pairs"),
    [
        ("rank", [1, 2, 3], ["xy", "xz", "yz"]),
        ("rank", [3, 1, 2], ["yx", "zx", "yz"]),
        ("rank", [1, 1, 2], ["xz", "yz"]),
        ("scores", [0.1, 0.5, -2], ["yx", "xz", "yz"]),
        ("scores", [1, 1, 1], []),
    ],
)
def test_a_ranked_list_gives_all_pairs_and_counts_once(order, numbers, pairs) -> None:
    row = PreferencePair.row(RANKED | {order: numbers, "weight": 3})
    records = PreferencePair.from_row(row)
    assert [record.chosen + record.rejected for record in records] == pairs
    assert sum(record.weight for record in records) == pytest.approx(3 if pairs else 0)
    assert len({record.weight for record in records}) <= 1
    assert all(record.preference == 1 and record.prompt == PROMPT for record in records)
    assert row.num_ties == 3 - len(pairs)
    assert (row.shape, row.label) == (f"prompt, completions, {order}", order)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6))
def test_scores_are_ranks_upside_down(scores) -> None:
    completions = [f"response {i}" for i in range(len(scores))]
    by_score = PreferencePair.parse(RANKED | {"completions": completions, "scores": scores})
    by_rank = PreferencePair.parse(RANKED | {"completions": completions, "rank": [6 - score for score in scores]})
    assert by_score == by_rank
    better = {(record.chosen, record.rejected) for record in by_score}
    expected = {(i, j) for i, one in enumerate(scores) for j, other in enumerate(scores) if one > other}
    assert better == {(completions[i], completions[j]) for i, j in expected}


def test_sharegpt_messages_are_read_wherever_messages_are() -> None:
    turns = sharegpt([*PROMPT, {"role": "assistant", "content": "Hello."}])
    assert Demonstration.parse({"messages": turns}) == [Demonstration(PROMPT, "Hello.")]
    assert AnchoredPrompt.parse({"prompt": turns[:1], "anchor": turns[1:]}) == [AnchoredPrompt(PROMPT, ("Hello.",))]
    for name in ("system", "tool", "user"):
        [record] = AnchoredPrompt.parse({"prompt": [{"from": name, "value": "a"}, *turns[:1]]})
        assert record.prompt[0] == {"role": name, "content": "a"}


def test_messages_of_both_forms_in_one_table_hold_nulls() -> None:
    both = [{"role": None, "content": None, "from": "human", "value": "Hi?"}]
    row = PreferencePair.row(PAIR | {"prompt": both})
    assert PreferencePair.from_row(row)[0].prompt == PROMPT
    assert row.dropped_message_keys == set()


def test_a_transcript_is_cut_where_the_sides_part() -> None:
    [pair] = PreferencePair.parse(
        {
            "chosen": "\n\nHuman: a\n\nb \n\nAssistant: c\n\nHuman: d\n\nAssistant:  e\n",
            "rejected": "\n\nHuman: a\n\nb \n\nAssistant: c\n\nHuman: d\n\nAssistant: f",
        }
    )
    assert [message["content"] for message in pair.prompt] == ["a\n\nb ", "c", "d"]
    assert [message["role"] for message in pair.prompt] == ["user", "assistant", "user"]
    assert (pair.chosen, pair.rejected) == ("e", "f")


def test_a_mark_in_an_explicit_prompt_or_its_responses_is_plain_text() -> None:
    marked = "\n\nHuman: Hi?\n\nAssistant: Hello."
    [pair] = PreferencePair.parse(PAIR | {"prompt": marked, "chosen": marked})
    assert pair.prompt[0]["content"] == marked
    assert pair.chosen == marked.strip()


DIALOGUE = "\n\nHuman: a\n\nAssistant: b"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"chosen": DIALOGUE, "rejected": "no marks"},
            "field 'rejected': found 'no marks' (not a transcript); expected a transcript, like the other response",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": DIALOGUE},
            "field 'chosen, turn 2': found '' (empty text); expected non-empty text. Give it a response or remove",
        ),
        (
            {"chosen": DIALOGUE, "rejected": f"{DIALOGUE}\n\nAssistant: c"},
            "field 'rejected': found messages of assistant, assistant after the prompt (not one",
        ),
        (PAIR | {"chosen": [*PROMPT]}, "field 'chosen': found no message after the prompt (not one assistant message)"),
        ({"chosen": DIALOGUE, "rejected": "\n\nHuman: z\n\nAssistant: b"}, "field 'rejected': found no common first"),
        ({"chosen": DIALOGUE, "rejected": DIALOGUE}, "field 'rejected': found 'b' (chosen equals rejected)"),
        (
            PAIR | {"preference": 1, "margin": 2},
            "field 'margin': found 'preference' and 'margin' (two labels at once); expected one label. Remove one, or "
            "leave one unread: columns: {margin: null}.",
        ),
        (SIDES | {"winner": "a", "preference": 1}, "found 'preference' and 'winner' (two labels at once)"),
        (PAIR | {"winner": "a"}, "field 'winner': found 'chosen', 'rejected' and 'winner' (two labels at once)"),
        (
            PAIR | SIDES | {"winner": "a"},
            "field 'response_b': found 'chosen', 'rejected' and 'response_a', 'response_b' (two shapes at once); "
            "expected one shape. Remove one, or leave one unread: columns: {response_b: null}.",
        ),
        (
            ANCHORED | {"reference": "b", "label": 1},
            "field 'reference': found 'response', 'anchor' and 'response', 'reference' (two shapes at once)",
        ),
        (RANKED | {"rank": [1, 2, 3], "scores": [1, 2, 3]}, "field 'scores': found 'completions', 'rank' and 'complet"),
        (RANKED | {"rank": [1, 2, 3], "label": 1}, "field 'label': found 'rank' and 'label' (two labels at once)"),
        (
            SIDES,
            "field 'winner': found columns 'prompt', 'response_a', 'response_b' (missing column); expected the columns "
            "prompt, response_a, response_b and winner. Add the column or map it: columns: {winner: <column in",
        ),
        (
            {"prompt": "Hi?", "response_a": "x", "response_2": "y", "winner": "a"},
            "field 'response_b': found columns 'prompt', 'response_a', 'response_2', 'winner' (missing column); "
            "expected the columns prompt, response_a, response_b and winner. Add the column or map it: columns: "
            "{response_b: response_2}.",
        ),
        (
            {"prom\x1b[2J\ud800pt": "Hi?", "chosen": "x", "rejected": "y"},
            "map it: columns: {prompt: prom\\x1b[2J\\ud800pt}.",
        ),
        (ANCHORED, "field 'label': found columns 'prompt', 'response', 'anchor' (missing column); expected the colu"),
        (ANCHORED | {"label": None}, "field 'label': found null (no value)"),
        (PAIR | {"preference": None}, "field 'preference': found null (no value)"),
        (PAIR | {"label": None, "margin": None}, "leave the column unread: columns: {label: null}."),
        (
            {"question": "Hi?", "better": "x", "worse": "y", "label": 1},
            "(missing column); expected the columns prompt, chosen and rejected.",
        ),
        (RANKED, "field 'rank': found columns 'prompt', 'completions' (missing column); expected the columns"),
        (ANCHORED | {"label": 2}, "found 2 (invalid label); expected a number from 0 to 1, the probability that the"),
        (
            PAIR | {"margin": float("inf")},
            "field 'margin': found inf (invalid margin); expected a finite number, the log-odds",
        ),
        (PAIR | {"margin": 10**400}, "(invalid margin)"),
        (PAIR | {"margin": "strong"}, "field 'margin': found 'strong' (invalid margin)"),
        (PAIR | {"label": "spam"}, "leave another kind of label unread: columns: {label: null}."),
        (PAIR | {"weight": 0}, "field 'weight': found 0 (invalid weight); expected a finite number above 0."),
        (PAIR | {"weight": float("nan")}, "field 'weight': found nan (invalid weight)"),
        (PAIR | {"weight": float("inf")}, "field 'weight': found inf (invalid weight)"),
        (PAIR | {"weight": True}, "field 'weight': found True (invalid weight)"),
        (
            PAIR | {"weight": 1e39},
            "field 'weight': found 1e+39 (weight beyond float32); expected a number that float32 h",
        ),
        (PAIR | {"weight": 1e-46}, "field 'weight': found 1e-46 (weight beyond float32)"),
        (RANKED | {"rank": [1, 2, 3], "weight": 2e-45}, "field 'weight': found 2e-45 (weight beyond float32)"),
        (
            SIDES | {"winner": "left"},
            "field 'winner': found 'left' (unknown winner); expected a, b or tie, or model_a, model_b or tie (both",
        ),
        (SIDES | {"winner": 1}, "field 'winner': found 1 (unknown winner)"),
        (RANKED | {"rank": 1}, "field 'rank': found 1 (not a list); expected a list with one entry per completion."),
        (RANKED | {"rank": [1, 2]}, "field 'rank': found 2 for 3 completions (wrong number of entries)"),
        (RANKED | {"rank": [1, "2", 3]}, "field 'rank[1]': found '2' (invalid rank); expected a finite number, 1 for"),
        (RANKED | {"scores": [1, float("nan"), 3]}, "field 'scores[1]': found nan (invalid score)"),
        (RANKED | {"completions": "x", "rank": [1]}, "field 'completions': found 'x' (not a list); expected a list of"),
        (RANKED | {"completions": ["x"], "rank": [1]}, "field 'completions': found 1 (wrong number of entries)"),
        (RANKED | {"completions": ["x", "", "z"], "rank": [1, 2, 3]}, "field 'completions[1]': found '' (empty text)"),
        (
            RANKED | {"completions": ["x", "y", "x "], "rank": [1, 2, 3]},
            "field 'completions[2]': found 'x', as completions[0] too (same text ranked twice)",
        ),
    ],
)
def test_a_bad_row_is_explained(row, message) -> None:
    with pytest.raises(RowError, match=re.escape(message)):
        PreferencePair.parse(row)


@pytest.fixture
def jsonl(tmp_path):
    def write(rows, **settings):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DataSource(str(tmp_path / "pairs.jsonl"), **settings)

    return write


def test_null_in_columns_leaves_a_column_unread(jsonl) -> None:
    row = PAIR | {"label": "spam", "winner": "Ann"}
    with pytest.raises(DataError, match=r"found 'label' and 'winner' .two labels|found 'chosen', 'rejected' and 'winn"):
        load_records(jsonl([row]), PreferencePair)
    loaded = load_records(jsonl([row], columns={"label": None, "winner": None}), PreferencePair)
    assert loaded.records == PreferencePair.parse(PAIR)


def test_columns_are_mapped_to_every_new_name(jsonl) -> None:
    arena = {
        "conversation_a": sharegpt([*PROMPT, {"role": "assistant", "content": "Hello."}]),
        "conversation_b": sharegpt([*PROMPT, {"role": "assistant", "content": "Go away."}]),
        "vote": "model_b",
        "importance": 0.5,
    }
    columns = {"response_a": "conversation_a", "response_b": "conversation_b", "winner": "vote", "weight": "importance"}
    loaded = load_records(jsonl([arena], columns=columns), PreferencePair)
    assert loaded.records == [PreferencePair(PROMPT, "Hello.", "Go away.", 0.0, 0.5)]
    assert loaded.report.shapes == {"response_a, response_b (messages)": 1}


def test_lists_and_messages_of_a_table_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [RANKED | {"scores": [0.1, 0.5, 0.5], "prompt": sharegpt(PROMPT)}]
    rows += [RANKED | {"scores": [1.0, 0.0], "prompt": list(PROMPT), "completions": ["x", "y"]}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    loaded = load_records(DataSource(str(tmp_path / "a.parquet")), PreferencePair)
    assert [(pair.prompt, pair.chosen, pair.rejected, pair.weight) for pair in loaded.records] == [
        (PROMPT, "y", "x", 0.5),
        (PROMPT, "z", "x", 0.5),
        (PROMPT, "x", "y", 1.0),
    ]
    assert loaded.report.dropped_message_keys == []


GOOD = [
    PAIR,
    PAIR | {"margin": 1},
    {"chosen": DIALOGUE, "rejected": f"{DIALOGUE}!"},
    SIDES | {"winner": "tie"},
    ANCHORED | {"label": 0},
    RANKED | {"rank": [1, 2, 2]},
    RANKED | {"scores": [1, 1, 1]},
]
BAD = [PAIR | {"margin": "x"}, SIDES, {"chosen": DIALOGUE, "rejected": "x"}, RANKED]


@given(rows=st.lists(st.sampled_from(GOOD + BAD), max_size=12))
def test_counts_add_up(tmp_path_factory, rows) -> None:
    path = tmp_path_factory.getbasetemp() / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [PAIR, *rows]))
    loaded = load_records(DataSource(str(path)), PreferencePair, on_invalid="skip")
    report = loaded.report
    assert report.num_read == len(rows) + 1
    assert sum(report.shapes.values()) == sum(report.labels.values()) == report.num_kept
    assert report.num_kept + sum(map(len, report.skipped.values())) == report.num_read
    assert report.num_kept == 1 + sum(row in GOOD for row in rows)
    assert report.num_records == len(loaded.records)
    assert report.num_ties == sum(row == GOOD[5] for row in rows) + 3 * sum(row == GOOD[6] for row in rows)


def test_every_shape_that_the_docs_show_is_read() -> None:
    table = (Path(__file__).parents[4] / "docs" / "data.md").read_text().partition("## Prompts")[0]
    rows = [json.loads(row) for row in re.findall(r"^\| [^|]+ \| `({.*})` \|$", table, re.MULTILINE)]
    assert len({shape_of(row)[0] for row in rows}) == len(rows) == 7
    for row in rows:
        pairs = [(p.prompt, p.chosen, p.rejected, p.preference) for p in PreferencePair.parse(row)]
        assert (PROMPT, "Hello.", "Go away.", 1.0) in pairs or (PROMPT, "Go away.", "Hello.", 0.0) in pairs


def test_ties_alone_are_no_data(jsonl) -> None:
    with pytest.raises(DataError, match="all 6 pairs of .* are ties; expected a ranked list with different ranks"):
        load_records(jsonl([GOOD[6], GOOD[6]]), PreferencePair)
    with pytest.raises(DataError, match=r"The others are ranked lists of 3 ties, which leave no pair\.$"):
        load_records(jsonl([GOOD[6], BAD[0]]), PreferencePair, on_invalid="skip")


SHARED = os.environ.get("PRL_SHARED_DATA")
real_data = pytest.mark.skipif(not SHARED, reason="PRL_SHARED_DATA names no folder with the real data sets")


@real_data
def test_real_transcripts_of_hh_rlhf() -> None:
    path = Path(str(SHARED)) / "hh_rlhf_harmless_base" / "test.jsonl.gz"
    loaded = load_records(DataSource(str(path)), PreferencePair, on_invalid="skip")
    report = loaded.report
    # Five rows have two assistant turns in a row after the shared prompt, four an empty chosen response.
    assert report.skipped == {
        "empty text": [87, 517, 926, 1104],
        "not one assistant message": [1255, 1689, 1951, 1953, 2037],
    }
    assert (report.num_read, report.num_kept, report.num_records) == (2312, 2303, 2303)
    assert report.shapes == {"chosen, rejected (transcripts)": 2303}
    with gzip.open(path) as file:
        first = json.loads(file.readline())
    record = loaded.records[0]
    for name, response in (("chosen", record.chosen), ("rejected", record.rejected)):
        whole = [*record.prompt, {"role": "assistant", "content": response}]
        assert transcript(whole) == first[name].rstrip()


@real_data
def test_real_pairs_of_alpaca_eval() -> None:
    path = Path(str(SHARED)) / "alpaca_eval" / "validation.jsonl.gz"
    report = load_records(DataSource(str(path)), PreferencePair).report
    assert (report.num_read, report.num_kept, report.skipped) == (1180, 1180, {})
    assert report.shapes == {"prompt, chosen, rejected": 1180}
    assert report.unknown_columns == ["chosen_model", "rejected_model", "source"]
    assert Counter(report.labels) == {"preference": 1180}
