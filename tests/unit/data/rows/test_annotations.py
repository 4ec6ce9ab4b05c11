"""Rows of annotated pairs, and how a file's annotations are put together."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prl.data import DataError, DataSource, RowError, load_records
from prl.data.rows.annotations import AnnotatedPair, Annotations

SIDES = {"prompt": "Hi?", "response_a": "Hello.", "response_b": "Go away."}
PAIR = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."}


def read(row: dict) -> AnnotatedPair:
    [record] = AnnotatedPair.parse(row)
    return record


def together(*rows: dict) -> Annotations:
    annotations = Annotations()
    for row in rows:
        annotations.add(read(row))
    return annotations


@pytest.mark.parametrize(
    ("row", "annotations"),
    [
        ({**SIDES, "winner": "b"}, {"1": 0.0}),
        ({**SIDES, "winner": "tie", "annotator": "ann"}, {"ann": 0.5}),
        ({**SIDES, "label": 0.7, "annotator": 3}, {"3": 0.7}),
        ({**SIDES, "preference": 0.25}, {"1": 0.25}),
        ({**SIDES, "labels": ["a", None, "tie", 0]}, {"1": 1.0, "3": 0.5, "4": 0.0}),
        ({**SIDES, "labels": {"ann": "model_b", "bob": None, "cid": "tie (bothbad)"}}, {"ann": 0.0, "cid": 0.5}),
        ({**PAIR, "annotator": " ann "}, {"ann": 1.0}),
        ({**PAIR, "preference": 0.5, "annotator": "ann"}, {"ann": 0.5}),
        ({**PAIR, "labels": ["a", "b"]}, {"1": 1.0, "2": 0.0}),
        ({"prompt": "Hi?", "response": "Hello.", "anchor": "Go away.", "labels": [0.5]}, {"1": 0.5}),
    ],
)
def test_forms(row: dict, annotations: dict) -> None:
    record = read({**row, "source": "here"})
    assert (record.first, record.second) == ("Hello.", "Go away.")
    assert record.annotations == annotations
    assert record.extra == {"source": "here"}
    assert record.tells == ("chosen" in row)


def test_messages_and_a_shared_prompt() -> None:
    turns = [[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": text}] for text in ("x", "y")]
    record = read({"chosen": turns[0], "rejected": turns[1], "labels": ["b"]})
    assert (record.prompt, record.first, record.annotations) == (({"role": "user", "content": "Hi?"},), "x", {"1": 0.0})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**SIDES, "labels": ["c"]}, "field 'labels[1]': found 'c' (unknown annotation); expected a, b or tie"),
        ({**SIDES, "labels": {"ann": 1.5}}, "field 'labels[ann]': found 1.5 (unknown annotation)"),
        ({**SIDES, "labels": [True]}, "field 'labels[1]': found True (unknown annotation)"),
        ({**SIDES, "labels": [None]}, "field 'labels': found [None] (no annotations)"),
        ({**SIDES, "labels": []}, "field 'labels': found [] (no annotations)"),
        (
            {**SIDES, "labels": "a, b"},
            "expected a list of annotations, or a mapping annotator -> annotation. Write the",
        ),
        ({**SIDES, "labels": ["a"], "winner": "a"}, "found 'labels' and 'winner' (two labels at once)"),
        ({**SIDES, "labels": ["a"], "annotator": "ann"}, "found 'labels' and 'annotator' (two labels at once)"),
        ({**SIDES, "winner": "a", "annotator": None}, "field 'annotator': found null (no annotator)"),
        ({**SIDES, "winner": "a", "annotator": [1]}, "field 'annotator': found [1] (wrong type); expected a name"),
        ({**SIDES, "winner": "a", "annotator": " "}, "field 'annotator': found ' ' (wrong type); expected a name"),
        ({**SIDES, "labels": {" ": "a"}}, "field 'annotator': found ' ' (wrong type); expected a name"),
        (
            {**SIDES, "labels": {"ann": "a", " ann": "b"}},
            "field 'labels[ ann]': found 'ann' a second time (one name twice); expected names that differ by more",
        ),
        ({**SIDES, "winner": "a", "weight": 2.0}, "field 'weight': found 2.0 (weighted); expected no weights"),
        ({**SIDES, "labels": ["a"], "weight": 1}, "field 'weight': found 1 (weighted); expected no weights"),
        (SIDES, "missing column"),
        ({**SIDES, "response_b": "Hello.", "labels": ["a"]}, "chosen equals rejected"),
        ({"prompt": "Hi?", "completions": ["x", "y"], "rank": [1, 2]}, "expected two responses. Write each pair"),
    ],
)
def test_what_is_refused(row: dict, told: str) -> None:
    with pytest.raises(RowError, match=re.escape(told)):
        read(row)


def test_rows_of_one_pair_are_one_pair_whatever_its_order() -> None:
    turned = {"prompt": "Hi?", "response_a": "Go away.", "response_b": "Hello."}
    annotations = together(
        {**SIDES, "winner": "a", "annotator": "ann", "source": 7},
        {**turned, "winner": "a", "annotator": "bob"},
        {**turned, "label": 0.25, "annotator": "cid"},
        {**SIDES, "prompt": "Hm?", "winner": "b", "annotator": "bob"},
    )
    pair, other = annotations.pairs
    assert pair.responses == ("Go away.", "Hello.")
    assert pair.annotations == {"ann": 0.0, "bob": 1.0, "cid": 0.25}
    assert (pair.listed_first, pair.source, other.source) == (1, "7", None)
    assert annotations.annotators == ["bob", "ann", "cid"]


def test_nobody_annotates_a_pair_twice() -> None:
    row = {**SIDES, "winner": "a", "annotator": "ann"}
    with pytest.raises(RowError, match="found 'ann' a second time for this pair"):
        together(row, row)
    with pytest.raises(RowError, match="name them in a column annotator"):
        together({**SIDES, "winner": "a"}, {**SIDES, "winner": "b"})
    with pytest.raises(RowError, match="names in just some of the rows"):
        together(row, {**SIDES, "prompt": "Hm?", "winner": "b"})


def test_an_order_that_tells_the_label() -> None:
    others = [{**SIDES, "prompt": f"{n}?"} for n in range(4)]
    assert not together({**others[0], "winner": "a"}, {**others[1], "winner": "b"}).order_tells()
    assert together(
        {**others[0], "winner": "b"}, {**others[1], "winner": "b"}, {**others[2], "winner": "tie"}
    ).order_tells()
    turned = {**SIDES, "response_a": SIDES["response_b"], "response_b": SIDES["response_a"]}
    disagreeing = [{**SIDES, "winner": "a", "annotator": "ann"}, {**turned, "winner": "a", "annotator": "bob"}]
    assert together(*disagreeing).order_tells()  # each row has the preferred response first
    assert not together(disagreeing[0], {**SIDES, "winner": "b", "annotator": "bob"}).order_tells()
    assert together({**PAIR, "labels": ["a", "b"]}).order_tells()  # whoever made the column chosen had a label


def test_the_drawn_order_depends_on_the_content_alone() -> None:
    rows = [{**SIDES, "prompt": f"{n}?", "winner": "a"} for n in range(200)]
    turned = [{**row, "response_a": row["response_b"], "response_b": row["response_a"], "winner": "b"} for row in rows]
    drawn = [pair.drawn_first() for pair in together(*rows).pairs]
    assert drawn == [pair.drawn_first() for pair in together(*turned).pairs]
    assert 70 < sum(drawn) < 130  # a coin


def test_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{**SIDES, "prompt": f"{n}?", "winner": "ab"[n % 2], "annotator": "ann"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.csv").write_text(
        "prompt,response_a,response_b,winner,annotator\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [load_records(DataSource(str(path)), AnnotatedPair).records for path in sorted(tmp_path.iterdir())]
    assert found[0] == found[1] == found[2]
    kinds = {"list": pa.list_(pa.string()), "struct": pa.struct({"1": pa.string(), "2": pa.string()})}
    kinds["map"] = pa.map_(pa.string(), pa.string())
    for name, kind in kinds.items():
        cell = ["a", None] if name == "list" else [("1", "a"), ("2", None)] if name == "map" else {"1": "a", "2": None}
        columns = {key: pa.array([value]) for key, value in SIDES.items()} | {"labels": pa.array([cell], kind)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        [record] = load_records(DataSource(str(tmp_path / f"{name}.parquet")), AnnotatedPair).records
        assert record.annotations == {"1": 1.0}


def test_a_mapped_column_and_a_helpful_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**SIDES, "winner": "a", "who": "ann"}) + "\n")
    [record] = load_records(DataSource(str(file), columns={"annotator": "who"}), AnnotatedPair).records
    assert record.annotations == {"ann": 1.0}
    file.write_text(json.dumps({"prompt": "Hi?", "one": "x", "two": "y", "winner": "a"}) + "\n")
    with pytest.raises(DataError, match="missing column"):
        load_records(DataSource(str(file)), AnnotatedPair)
