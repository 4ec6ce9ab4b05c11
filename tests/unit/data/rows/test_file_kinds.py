"""The same rows in every kind of file: the same records, and the same words for what is wrong with them."""

import csv
import gzip
import json
import os
import re
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prl.data import DataError, DataSource, Demonstration, PreferencePair, RecordStream, load_records
from prl.data.rows import json_rows
from tests.fuzz import rows as fuzz_rows
from tests.fuzz.__main__ import input_of

KINDS = ["jsonl", "jsonl.gz", "json", "csv", "parquet"]
PAIR = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."}
NUMBERS = {"label": 0.25, "weight": 2.0}


@pytest.fixture(autouse=True)
def no_library_guesses(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("a file went through `datasets`"))


@pytest.fixture
def written(tmp_path):
    """Write rows as a kind of file, or text as it is, and return its source."""

    def write(kind, rows, name="a"):
        path = tmp_path / f"{name}.{kind}"
        if isinstance(rows, list):
            rows = fuzz_rows.WRITERS[kind](rows)
        path.write_bytes(rows.encode() if isinstance(rows, str) else rows)
        return DataSource(str(path))

    return write


def read(source, kind=PreferencePair, on_invalid="error"):
    return load_records(source, kind, on_invalid)


def complaints(source, kind=PreferencePair):
    with pytest.raises(DataError) as caught:
        read(source, kind)
    return str(caught.value).replace(source.path, "FILE").replace(source.path.rpartition("/")[2], "FILE")


TEXTS = ["000", "1.50", "1e5", "NA", "null", "nan", "true", "2024-01-01", "12:30", "1,5", 'a "b", c', "a\nb", "a;b\tc"]
TEXTS += ["é\u2028ß", "1" * 30, "=1+1", "0x10", "\\N", "[1, 2]", "-0", "-", "x" * 200_000]


def test_text_stays_as_it_is_written_in_every_kind(written):
    rows = [PAIR | {"prompt": f"{i}", "chosen": text} | NUMBERS for i, text in enumerate(TEXTS)]
    for kind in KINDS:
        loaded = read(written(kind, rows))
        assert [record.chosen for record in loaded.records] == TEXTS, kind
        assert [record.prompt[0]["content"] for record in loaded.records] == [row["prompt"] for row in rows]
        assert {(record.preference, record.weight) for record in loaded.records} == {(0.25, 2.0)}


def test_lists_are_the_same_in_every_kind_that_holds_them(written):
    rows = [{"messages": [{"role": "user", "content": "000"}, {"role": "assistant", "content": text}]} for text in "ab"]
    expected = [record for row in rows for record in Demonstration.parse(row)]
    for kind in set(KINDS) - {"csv"}:
        assert read(written(kind, rows), Demonstration).records == expected


BAD = [
    PAIR | {"label": 0.5},
    PAIR | {"label": 1.5},
    PAIR | {"label": float("nan")},
    PAIR | {"label": 1, "weight": 0.0},
    PAIR | {"label": 1, "weight": -1.0},
    PAIR | {"label": 1, "chosen": " "},
    PAIR | {"label": 1, "chosen": None},
    PAIR | {"label": 1, "rejected": "Hello. "},
    PAIR | {"label": None},
    PAIR | {"label": 1, "prompt": '[{"role": "user", "content": "Hi?"}]'},
]


def test_bad_rows_have_the_same_words_in_every_kind(written):
    rows = [{"prompt": None, "chosen": None, "rejected": None, "label": None, "weight": None} | row for row in BAD]
    expected = complaints(written("jsonl", rows))
    assert expected.startswith("9 of 10 rows in FILE are invalid:\nFILE, row 2, field 'label': found 1.5 (invalid")
    strings = [PAIR | {"label": label} for label in ("high", "0,5", "1_0", "True", "\uff11")]
    for kind in KINDS:
        said = complaints(written(kind, rows))
        assert said == (expected.replace("found nan", "found 'nan'") if kind == "csv" else expected)
        said = complaints(written(kind, strings))
        assert "FILE, row 1, field 'label': found 'high' (invalid label); expected a number from 0 to 1" in said
        assert "4 more like it: rows 2, 3, 4, 5\n" in said
        assert complaints(written(kind, [{"a": 1} | PAIR, {"a": 1} | PAIR | {"prompt": None}])).splitlines()[1] == (
            "FILE, row 2, field 'prompt': found null (no value); expected a value. Fill the cell or remove the row."
        )


def test_a_bad_byte_costs_its_row_in_every_kind(written):
    row = PAIR | {"source": "Xx"}
    text = pa.array(["Hi?", "Hi?"])
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"Xx\xffx"))
    table = pa.table({"prompt": text, "chosen": ["a", "a"], "rejected": ["b", "b"], "source": broken})
    for kind in KINDS:
        good = fuzz_rows.WRITERS[kind]([row, row])
        if kind == "parquet":
            file = pa.BufferOutputStream()
            pq.write_table(table, file)
            content = file.getvalue().to_pybytes()
        elif kind == "jsonl.gz":
            content = gzip.compress(b"\xff".join(gzip.decompress(good).rsplit(b"X", 1)))
        else:
            content = b"\xff".join(good.rsplit(b"X", 1))
        source = written(kind, content)
        assert re.search(
            r"\nFILE, row 2(, field 'source')?: found byte 0xff at position \d+ \(undecodable text\); expected text in "
            "UTF-8. Write the file again as UTF-8 or remove the row.\n",
            complaints(source),
        ), kind
        assert read(source, on_invalid="skip").report.skipped == {"undecodable text": [2]}


def test_files_without_a_row_hold_no_rows(written):
    empty = pq.ParquetWriter(pa.BufferOutputStream(), pa.schema({"prompt": pa.string()}))
    empty.close()
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in PAIR}), table)
    contents = {"jsonl": "\n", "jsonl.gz": gzip.compress(b""), "json": "[ ]\n", "csv": "prompt,chosen,rejected\n\n"}
    for kind, content in (contents | {"parquet": table.getvalue().to_pybytes()}).items():
        assert complaints(written(kind, content)) == "FILE holds no rows; expected at least one"


def test_a_cut_file_is_refused_even_when_bad_rows_are_skipped(written):
    rows = [PAIR] * 3
    for kind in ("jsonl.gz", "json", "parquet", "csv"):
        content = fuzz_rows.WRITERS[kind](rows) if kind != "csv" else b'prompt,chosen,rejected\nHi?,a,b\nHi?,"a\nb,c'
        with pytest.raises(DataError, match=r"a\.\w+.*\brow \d"):
            read(written(kind, content[:-9] if kind != "csv" else content), on_invalid="skip")


def test_a_number_is_read_exactly(written):
    table = pa.BufferOutputStream()
    labels = pa.array([Decimal("0.5"), Decimal("0.3")], pa.decimal128(5, 2))
    pq.write_table(pa.table({name: [cell] * 2 for name, cell in PAIR.items()} | {"label": labels}), table)
    by_kind = {
        "parquet": table.getvalue().to_pybytes(),
        "csv": "prompt,chosen,rejected,label\nHi?,a,b,.5\nHi?,a,b, 3e-1\n",
    }
    for kind, content in by_kind.items():
        assert [record.preference for record in read(written(kind, content)).records] == [0.5, 0.3]


def test_a_file_is_read_from_its_place_and_no_other(written, tmp_path):
    """A name is no pattern, a time stamp says nothing, and what a row names stays closed."""
    for kind in KINDS:
        source = written(kind, [PAIR], name="a[1]*?")
        assert read(source).records == PreferencePair.parse(PAIR)
        stamp = os.stat(source.path)
        source = written(kind, [PAIR | {"chosen": "Hallo!"}], name="a[1]*?")
        os.utime(source.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert read(source).records[0].chosen == "Hallo!"
    image = {"path": str(tmp_path / "gone.png"), "bytes": None}
    table = datasets.Dataset.from_list([PAIR | {"image": image}]).cast_column("image", datasets.Image())
    pq.write_table(
        table.data.table.replace_schema_metadata(table.features.arrow_schema.metadata), tmp_path / "b.parquet"
    )
    assert read(DataSource(str(tmp_path / "b.parquet"))).records[0].extra == {"image": image}


def test_a_file_that_is_written_while_it_is_read_is_refused(written):
    stream = RecordStream(written("jsonl", [PAIR] * 3), PreferencePair)
    stream.content_hash()
    records = iter(stream)
    next(records)
    written("jsonl", [PAIR | {"chosen": "Hallo!"}] * 4)
    with pytest.raises(DataError, match=r"a\.jsonl was changed while it was read; start again"):
        list(records)


# ---- JSON


def test_an_array_is_read_in_pieces_as_it_is_whole(written, monkeypatch):
    rows = [PAIR | {"source": [1.5e10, -3, True, None, '\\"[]{},\U0001f600', {"a": {}}], "x": 10**i} for i in range(9)]
    text = json.dumps(rows, indent=2, ensure_ascii=False)
    source = written("json", f"\ufeff \n{text}\n")
    expected = [record for row in json.loads(text) for record in PreferencePair.parse(row)]
    for chunk in (1, 2, 3, 17, 10**6):
        monkeypatch.setattr(json_rows, "_CHUNK", chunk)
        assert read(source).records == expected


ROW = json.dumps(PAIR)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[{ROW}, {ROW[:-3]}", 'FILE, row 2: found b\'{"prompt": "Hi?"'),
        (f"[{ROW} {ROW}]", "FILE, row 1: found '{' behind it, where a comma or the end of the array was expected"),
        (f"[{ROW}", "FILE, row 1: found the end of the file, where a comma or the end of the array was expected"),
        (f"[{ROW},]", "FILE, row 2: found b']': Expecting value at character 0 (invalid JSON)"),
        (f"[{ROW}] {ROW}", "behind the end of the array"),
        ("[" * 10**5, "FILE, row 1: found b'[[[["),
        (f'[{ROW}, {{"prompt": "Hi?,}}]', 'FILE, row 2: found b\'{"prompt"'),
        (f'[{ROW}, {{"prompt": {"9" * 5000}}}]', 'FILE, row 2: found b\'{"prompt": 999'),
        ('{\n"prompt": "Hi?"}', "FILE begins with an object over several lines; expected an array of objects, or one"),
    ],
)
def test_an_array_that_is_no_json_is_refused_with_its_row(written, text, message):
    source = written("json", text)
    assert message in complaints(source)
    with pytest.raises(DataError):
        read(source, on_invalid="skip")


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_key_given_twice_is_a_bad_row(written, kind):
    twice = ROW.replace('"rejected"', '"chosen": "B", "rejected"')
    nested = '{"prompt": [{"role": "user", "content": "a", "content": "b"}], "chosen": "a", "rejected": "b"}'
    rows = [ROW, twice, nested, "3", '{"prompt": "Hi?", "chosen": "a", "rejected": "b", "weight": NaN}']
    said = complaints(written(kind, "\n".join(rows) if kind == "jsonl" else f"[{', '.join(rows)}]")).splitlines()
    assert said[1] == (
        "FILE, row 2, field 'chosen': found two values (key given twice); expected one value for a key. Remove one of "
        "the two."
    )
    assert said[2].startswith("FILE, row 3, field 'content': found two values (key given twice)")
    assert said[3].startswith("FILE, row 4: found a int (invalid JSON); expected one JSON object")
    assert said[4].startswith("FILE, row 5, field 'weight': found nan (invalid weight)")


def test_a_json_file_may_hold_lines(written):
    assert len(read(written("json", f"{ROW}\n\n{ROW}\n")).records) == 2


# ---- CSV


@pytest.mark.parametrize(
    "text",
    [
        'prompt,chosen,rejected\n"Hi?","a, b","c;d"\n',
        '\ufeffprompt;chosen;rejected\r\nHi?;a, b;"c;d"\r\n',
        "prompt\tchosen\trejected\nHi?\ta, b\tc;d\n\n",
        'sep=;\nprompt;chosen;rejected\nHi?;a, b;"c;d"\n',
        'prompt,"chosen",rejected\r"Hi?","a, b",c;d',
        ',prompt,chosen,rejected\n0,Hi?,"a, b",c;d\n',
        'prompt,chosen,rejected,\nHi?,"a, b",c;d,\n',
    ],
)
def test_dialects_of_csv(written, text):
    [record] = read(written("csv", text)).records
    assert (record.prompt[0]["content"], record.chosen, record.rejected) == ("Hi?", "a, b", "c;d")


HEAD = "prompt,chosen,rejected\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "Hi?,a,b\nHi?,a, b,c\n", "FILE, row 2: found 4 cells under 3 headings, up to line 3 (wrong number of"),
        (HEAD + "Hi?,a\n", "FILE, row 1: found 2 cells under 3 headings, up to line 2 (wrong number of cells)"),
        ("id,prompt,chosen,rejected\n0,Hi?,a,b,\n", "FILE, row 1: found 5 cells under 4 headings"),
        ("prompt,chosen,rejected,\nHi?,a, b,c\n", "FILE, row 1: found 'c' in column 4 (cell without a heading)"),
        (HEAD + 'Hi?,"a" b,c\n', "FILE, row 1 (line 2): ',' expected after '\"' (broken quotes)"),
        (HEAD + 'Hi?,a,b\nHi?,"a,b\n', "FILE, row 2 (line 3): unexpected end of data (broken quotes)"),
        ('"prompt,chosen\n', "FILE, the headings: unexpected end of data (broken quotes)"),
        ("prompt,chosen,chosen,rejected\nHi?,a,b,c\n", "FILE has the heading 'chosen' twice; rename or remove one"),
        (b"\xff\xfea\0", "FILE is text in UTF-16; write the file again as UTF-8"),
        (b"prompt,\xe4\n", "FILE has a heading with byte 0xe4 at position 0, which is no UTF-8"),
    ],
)
def test_a_csv_whose_cells_cannot_be_told_is_refused(written, text, message):
    assert message in complaints(written("csv", text))


def test_what_pythons_csv_writes_is_read_as_it_was(written, tmp_path):
    cells = [
        f"{a}{b}" for a in ('"', "'", ",", "\n", "\r\n", ";", "\t", "\x00", "\x1b", "\\", "a") for b in ('"', ",", "b")
    ]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "chosen", "rejected"], *(["Hi?", cell + "x", "no"] for cell in cells)])
    assert [each.chosen for each in read(DataSource(str(tmp_path / "a.csv"))).records] == [
        f"{c}x".strip() for c in cells
    ]


# ---- Parquet


def test_columns_of_one_name_and_values_without_an_object_are_named(written):
    def table(columns, names):
        file = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], names), file)
        return file.getvalue().to_pybytes()

    twice = table([["Hi?"], ["a"], ["b"], ["c"]], ["prompt", "chosen", "rejected", "rejected"])
    assert complaints(written("parquet", twice)) == "FILE has the column 'rejected' twice; rename or remove one of them"
    number = table([["Hi?"], [4], ["b"]], ["prompt", "chosen", "rejected"])
    assert "FILE, row 1, field 'chosen': found 4 (wrong type); expected text" in complaints(written("parquet", number))


def test_what_a_hub_set_names_is_not_opened(monkeypatch, tmp_path):
    image = {"bytes": None, "path": str(tmp_path / "gone.png")}
    rows = datasets.Dataset.from_list([PAIR | {"image": image, "images": [image]}])
    rows = rows.cast_column("image", datasets.Image()).cast_column("images", datasets.List(datasets.Image()))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert read(DataSource("owner/pairs")).records[0].extra == {"image": image, "images": [image]}


def test_a_few_broken_files_of_each_kind_are_read_or_refused_in_words(tmp_path):
    """The first inputs of `python -m tests.fuzz rows`."""
    refused = 0
    for number in range(40):
        name, content = input_of(fuzz_rows, number)
        (tmp_path / name).write_bytes(content)
        try:
            fuzz_rows.read(tmp_path / name)
        except DataError:
            refused += 1
    assert refused > 10


def test_a_folder_is_read_anew_whatever_its_time_stamps(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "rows" / "train.parquet"
    path.parent.mkdir()
    stamp = 1_000_000_000
    for text in ("Hello.", "Hallo!"):
        pq.write_table(pa.Table.from_pylist([PAIR | {"chosen": text}]), path)
        os.utime(path, ns=(stamp, stamp))
        source = DataSource(str(path.parent))
        assert RecordStream(source, PreferencePair).content_hash() is None
        assert read(source).records[0].chosen == text
