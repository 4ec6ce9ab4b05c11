import gzip
import hashlib
import json
import re
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from prl.data import DataError, DataSource, Demonstration, PreferencePair, load_records
from prl.data.rows import reading
from prl.data.rows.messages import odd_order

PAIR = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."}
[RECORD] = PreferencePair.parse(PAIR)


@pytest.fixture(autouse=True)
def dataset_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def jsonl(tmp_path):
    """Write rows (dicts, or bytes as they are) to a file and return its source."""

    def write(*rows, name="pairs.jsonl", **settings):
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        content = b"\n".join(lines) + b"\n"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return DataSource(str(tmp_path / name), **settings)

    return write


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_jsonl_is_read_with_a_report(jsonl, tmp_path, name):
    prompt = [{"role": "user", "content": "Hi?", "name": "Ann"}]
    source = jsonl(PAIR, PAIR | {"chosen": " Hello.", "prompt": prompt, "source": "web"}, b"", name=name)
    loaded = load_records(source, PreferencePair)
    assert [record.chosen for record in loaded.records] == ["Hello.", "Hello."]
    loaded.report.write(tmp_path / "run" / "report.json")
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == {
        "source": source.path,
        "sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(),
        "kind": "PreferencePair",
        "num_read": 2,
        "num_kept": 2,
        "num_records": 2,
        "num_ties": 0,
        "num_stripped": 1,
        "shapes": {"prompt, chosen, rejected": 2},
        "labels": {"none, chosen is better": 2},
        "skipped": {},
        "unknown_columns": ["source"],
        "odd_orders": {},
        "dropped_message_keys": ["name"],
    }


def test_byte_order_mark_and_line_separator_inside_text(jsonl):
    row = PAIR | {"chosen": "a\u2028b\x85c"}
    source = jsonl(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode())
    assert load_records(source, PreferencePair).records[0].chosen == "a\u2028b\x85c"


def test_parquet_csv_and_json_give_the_same_record(tmp_path):
    table = datasets.Dataset.from_list([PAIR, PAIR | {"chosen": "NA"}])
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv")
    (tmp_path / "a.json").write_text(json.dumps([PAIR, PAIR | {"chosen": "NA"}]))
    for suffix in ("parquet", "csv", "json"):
        records = load_records(DataSource(str(tmp_path / f"a.{suffix}")), PreferencePair).records
        assert [record.chosen for record in records] == ["Hello.", "NA"], suffix


def test_parquet_rows_are_counted_from_one(tmp_path):
    row = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}
    datasets.Dataset.from_list([row, row | {"messages": []}]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 2, field 'messages': found \[\] \(empty message list\)"):
        load_records(DataSource(str(tmp_path / "a.parquet")), Demonstration)


def test_csv_empty_cell_is_no_value(tmp_path):
    text = "prompt,chosen,rejected,preference\nHi?,Hello.,Go away.,1\nHi?,,Go away.,0.5\nHi?,Hello.,Go away.,\n"
    (tmp_path / "a.csv").write_text(text)
    loaded = load_records(DataSource(str(tmp_path / "a.csv")), PreferencePair, on_invalid="skip")
    assert loaded.records == [RECORD]
    assert loaded.report.skipped == {"no value": [2, 3]}


def test_csv_messages_as_text_are_refused(tmp_path):
    dialogues = [[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": text}] for text in "ab"]
    implicit = [dict(zip(("chosen", "rejected"), dialogues, strict=True))]  # written as Python, not as JSON
    explicit = [PAIR | {"chosen": json.dumps(dialogues[0])}, PAIR | {"prompt": json.dumps(dialogues[0][:1])}]
    for rows in (implicit, explicit):
        datasets.Dataset.from_list(rows).to_csv(tmp_path / "a.csv")
        with pytest.raises(DataError) as caught:
            load_records(DataSource(str(tmp_path / "a.csv")), PreferencePair)
        assert str(caught.value).count("(messages as text); expected text, or a list of messages") == len(rows)


def test_text_that_only_looks_like_messages_is_text():
    listed = json.dumps([{"role": "assistant", "content": "Hello."}])
    for row in (PAIR | {"chosen": '[{"name": "user"}]'}, PAIR | {"chosen": [{"role": "assistant", "content": listed}]}):
        assert PreferencePair.parse(row)[0].chosen.startswith("[{")


def test_columns_are_mapped_and_never_mixed_up(jsonl):
    row = {"question": "Hi?", "chosen": "Go away.", "rejected": "Hello.", "prompt": "unused"}
    columns = {"prompt": "question", "chosen": "rejected", "rejected": "chosen"}
    assert load_records(jsonl(row, columns=columns), PreferencePair).records == [RECORD]
    message = r"columns maps prompt to 'querry', which no row of .* has; its columns are .*\. Is 'query' meant\?"
    with pytest.raises(DataError, match=message):
        load_records(jsonl({"query": "Hi?"} | PAIR, columns={"prompt": "querry"}), PreferencePair, on_invalid="skip")
    with pytest.raises(ValueError, match=r"columns maps \['promt'\]; a PreferencePair has the fields \['prompt'"):
        load_records(jsonl(PAIR, columns={"promt": "question"}), PreferencePair)


@pytest.mark.parametrize("name", ["preference", "weight"])
def test_a_mapped_column_that_no_row_has_is_an_error(jsonl, name):
    rows = [PAIR | {"prompt": "Who?"}, PAIR | {name: 0.5}]
    with pytest.raises(DataError, match=rf"columns maps {name} to '{name[:-1]}', .* Is '{name}' meant\?"):
        load_records(jsonl(*rows, columns={name: name[:-1]}), PreferencePair)
    loaded = load_records(jsonl(*rows, columns={name: name}), PreferencePair)  # one row that has it is enough
    assert getattr(loaded.records[1], name) == 0.5


def test_limit_reads_the_first_rows(jsonl):
    source = jsonl(PAIR, PAIR | {"prompt": "Who?"}, b"broken", limit=2)
    assert load_records(source, PreferencePair).report.num_read == 2
    with pytest.raises(ValueError, match="limit is 0"):
        DataSource("pairs.jsonl", limit=0)


BAD_ROWS = [
    (PAIR | {"chosen": ""}, ", field 'chosen': found '' (empty text); expected non-empty text. Give it a response"),
    (PAIR | {"rejected": "Hello."}, ", field 'rejected': found 'Hello.' (chosen equals rejected)"),
    (PAIR | {"preference": float("nan")}, ", field 'preference': found nan (invalid preference)"),
    (
        {"prompt": "Hi?"},
        ", field 'chosen': found columns 'prompt' (missing column); expected the columns prompt, chosen",
    ),
    (b'{"prompt": "Hi?",', ': found b\'{"prompt": "Hi?",\\n\': Expecting property name'),
    (b'["Hi?"]', ": found a list (invalid JSON); expected one JSON object. Repair or remove the line."),
    (b'{"prompt": "\xff"}', ": found byte 0xff at position 12 (undecodable text); expected text in UTF-8."),
    (b"[" * 100_000, ": found b'[["),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_line_is_named(jsonl, row, message):
    # The blank line counts: the number is the one that an editor shows.
    with pytest.raises(DataError, match=re.escape(f"pairs.jsonl, row 3{message}")):
        load_records(jsonl(PAIR, b"", row, PAIR), PreferencePair)


def test_all_bad_rows_are_raised_at_once_by_cause(jsonl, monkeypatch):
    causes = [PAIR | change for change in ({"chosen": ""}, {"weight": 0}, {"label": 2}, {"chosen": ""})]
    source = jsonl(PAIR, *causes * 6)
    monkeypatch.setattr(reading, "MAX_ERRORS_SHOWN", 2)
    with pytest.raises(DataError) as caught:
        load_records(source, PreferencePair)
    head, empty, weight, more, advice = str(caught.value).splitlines()
    assert head == f"24 of 25 rows in {source.path} are invalid:"
    assert empty.startswith("pairs.jsonl, row 2, field 'chosen': found '' (empty text); expected non-empty text. Give")
    assert empty.endswith(" 11 more like it: rows 5, 6, 9, 10, 13, 14, 17, 18, ...")
    assert weight.startswith("pairs.jsonl, row 3, field 'weight': found 0 (invalid weight);")
    assert weight.endswith(" 5 more like it: rows 7, 11, 15, 19, 23")
    assert more == "... and 6 more."
    assert "on_invalid: skip" in advice


def test_skip_leaves_out_and_counts(jsonl):
    loaded = load_records(jsonl(PAIR, *[row for row, _ in BAD_ROWS], PAIR), PreferencePair, on_invalid="skip")
    assert loaded.records == [RECORD, RECORD]
    assert (loaded.report.num_read, loaded.report.num_kept) == (10, 2)
    assert loaded.report.skipped == {
        "empty text": [2],
        "chosen equals rejected": [3],
        "invalid preference": [4],
        "missing column": [5],
        "invalid JSON": [6, 7, 9],
        "undecodable text": [8],
    }


def test_no_valid_row_is_an_error_even_when_skipping(jsonl, tmp_path):
    with pytest.raises(DataError, match=r"(?s)1 of 1 rows.*row 1, field 'chosen'.*would leave nothing"):
        load_records(jsonl(PAIR | {"chosen": ""}), PreferencePair)
    with pytest.raises(DataError, match=r"(?s)1 of 1 rows.*row 1, field 'chosen'.*No row is valid, so nothing is left"):
        load_records(jsonl(PAIR | {"chosen": ""}), PreferencePair, on_invalid="skip")
    with pytest.raises(DataError, match="holds no rows"):
        load_records(jsonl(b""), PreferencePair)


def test_unknown_policy_is_refused(jsonl):
    with pytest.raises(ValueError, match="on_invalid is 'ignore'; expected 'error' or 'skip'"):
        load_records(jsonl(PAIR), PreferencePair, on_invalid="ignore")


@pytest.mark.parametrize("path", ["missing/pairs.jsonl", "./pairs", "../pairs", "pairs.csv"])
def test_missing_file_is_named_and_never_looked_up_on_the_hub(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=f"no data file at {re.escape(path)} .looked for {re.escape(str(tmp_path))}/"):
        load_records(DataSource(path), PreferencePair)


def test_unreadable_files_are_explained(tmp_path, jsonl):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.txt is a \.txt file; expected \.jsonl, \.jsonl\.gz, \.json, \.parquet"):
        load_records(DataSource(str(tmp_path / "a.txt")), PreferencePair)
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as \.parquet: "):
        load_records(DataSource(str(tmp_path / "a.parquet")), PreferencePair)
    (tmp_path / "a.csv").write_bytes("prompt,chosen,rejected\nä,b,c\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv, row 1, .* \(undecodable text\).* Write the file again as UTF-8"):
        load_records(DataSource(str(tmp_path / "a.csv")), PreferencePair)
    for name, text in (("none.json", ""), ("list.json", "[]"), ("none.csv", ""), ("head.csv", "prompt,chosen\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=f"{name} holds no rows; expected at least one"):
            load_records(DataSource(str(tmp_path / name)), PreferencePair)
    source = jsonl(PAIR, name="cut.jsonl.gz")
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "cut.jsonl.gz").read_bytes()[:-12])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz is damaged and cannot be unpacked"):
        load_records(source, PreferencePair)
    with pytest.raises(DataError, match="is a local file and has no split or name"):
        load_records(jsonl(PAIR, split="train"), PreferencePair)


def test_hub_id_is_read_through_datasets(monkeypatch):
    calls = []

    def load_dataset(path, **settings):
        calls.append((path, settings))
        return datasets.Dataset.from_list([PAIR, PAIR | {"chosen": ""}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = DataSource("owner/pairs", split="test", name="small")
    with pytest.raises(DataError, match="owner/pairs, row 2, field 'chosen'"):
        load_records(source, PreferencePair)
    loaded = load_records(source, PreferencePair, on_invalid="skip")
    assert loaded.records == [RECORD]
    assert loaded.report.sha256 is None
    assert calls[0] == ("owner/pairs", {"name": "small", "split": "test"})


def test_hub_splits_are_never_guessed(monkeypatch):
    rows = datasets.Dataset.from_list([PAIR])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=rows, test=rows))
    with pytest.raises(DataError, match="owner/pairs has the splits train, test; choose one"):
        load_records(DataSource("owner/pairs"), PreferencePair)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(test=rows))
    assert load_records(DataSource("owner/pairs"), PreferencePair).records == [RECORD]


def test_a_folder_is_read_where_its_files_have_types(tmp_path: Path) -> None:
    for name in ("typed", "untyped", "part[1]"):
        (tmp_path / name).mkdir()
    rows = pyarrow.table({"prompt": ["00", "p"], "chosen": ["1.50", "a"], "rejected": ["2020-01-01", "b"]})
    pyarrow.parquet.write_table(rows, tmp_path / "typed" / "train.parquet")
    first, _ = load_records(DataSource(str(tmp_path / "typed")), PreferencePair).records
    assert (first.prompt[0]["content"], first.chosen, first.rejected) == ("00", "1.50", "2020-01-01")
    (tmp_path / "untyped" / "one.csv").write_text("prompt,chosen,rejected\n00,1.50,2020-01-01\n")
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"untyped is a folder with .*one\.csv.* others do not say which types"):
            load_records(DataSource(str(tmp_path / "untyped"), streaming=streaming), PreferencePair)
    (tmp_path / "link").symlink_to(tmp_path / "part[1]")
    for name in ("part[1]", "link"):
        with pytest.raises(DataError, match=r"part\[1\] has a bracket"):
            load_records(DataSource(str(tmp_path / name)), PreferencePair)
    (tmp_path / "untyped" / "one.csv").rename(tmp_path / "typed" / "more.csv")
    with pytest.raises(DataError, match=r"typed is a folder with .*more\.csv"):  # beside the other file
        load_records(DataSource(str(tmp_path / "typed")), PreferencePair)


def test_hub_failure_is_explained(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"owner/pairs is not a local file.*split=test\): ConnectionError: no route"):
        load_records(DataSource("owner/pairs", split="test"), PreferencePair)


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        ("user", None),
        ("system user assistant user", None),
        ("system", None),
        ("user assistant tool tool assistant", None),
        ("assistant user", "an assistant message begins"),
        ("system assistant user", "an assistant message begins"),
        ("user user", "two user messages in a row"),
        ("user assistant assistant user", "two assistant messages in a row"),
        ("user system user", "a system message behind"),
    ],
)
def test_an_order_of_roles_that_few_chat_templates_accept(roles: str, told: str | None) -> None:
    prompt = [{"role": role, "content": "x"} for role in roles.split()]
    found = odd_order(prompt)
    assert found is None if told is None else told in found


def test_odd_orders_are_counted_with_their_first_row(jsonl):
    odd = PAIR | {"prompt": [{"role": "user", "content": "x"}] * 2}
    report = load_records(jsonl(PAIR, odd, PAIR, odd), PreferencePair).report
    [(order, seen)] = report.odd_orders.items()
    assert "in a row" in order
    assert seen == {"rows": 2, "first": 2}
