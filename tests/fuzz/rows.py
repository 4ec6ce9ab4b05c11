"""Data files of all kinds, broken in their bytes or in the values of their rows."""

import csv
import gzip
import io
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prl.cli.commands.data import as_text, first_record
from prl.data import AnchoredPrompt, DataError, DataSource, Demonstration, PreferencePair, load_records
from prl.data.rows.annotations import AnnotatedPair, Annotations
from prl.data.rows.benchmark_records import BenchmarkRow
from prl.evaluation.data_summary import describe
from tests.fuzz import mutated, mutated_value

EXPECTED = DataError
FLAT: list[dict[str, Any]] = [
    {"prompt": "Hi?", "chosen": "Hello, you.", "rejected": "000", "label": 0.5, "weight": 2, "source": "web"},
    {"prompt": 'Say "a\nb"', "chosen": "1.50", "rejected": "é\u2028", "label": 1, "weight": 1.5, "source": None},
]
NESTED: list[dict[str, Any]] = [
    {"prompt": [{"role": "user", "content": "Hi?"}], "completions": ["a", "b", "c"], "rank": [1, 2, 3], "anchor": "x"},
    {"messages": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}], "completion": "Hello."},
]
SIDES = {"prompt": "Hi?", "response_a": "Hello.", "response_b": "Go away."}
ANNOTATED: list[dict[str, Any]] = [
    {**SIDES, "labels": {"ann": "a", "bob": "tie", "cid": None}, "winner": None, "annotator": None},
    {**SIDES, "prompt": "Hm?", "winner": "b", "annotator": "ann", "labels": None},
]
BENCHMARK: list[dict[str, Any]] = [
    {"prompt": "Hi?", "chosen": ["a", "b"], "rejected": ["c"], "subset": "Ties", "id": "tied:1", "num_correct": 2},
    {"prompt": "Hm?", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Math", "id": "7", "num_correct": 1},
]


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode(errors="surrogatepass")


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


WRITERS = {
    "jsonl": as_jsonl,
    "jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows), mtime=0),
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "csv": as_csv,
    "parquet": as_parquet,
}


@cache
def inputs() -> dict[str, bytes]:
    return {f"{name}.{kind}": write(rows) for name, rows in ROWS.items() for kind, write in WRITERS.items()}


ROWS = {"flat": FLAT, "nested": NESTED, "annotated": ANNOTATED, "benchmark": BENCHMARK}


def changed(draw: random.Random, good: dict[str, bytes]) -> tuple[str, bytes]:
    """Broken bytes, or whole files of broken values; of .gz files also broken text in a whole file."""
    name = draw.choice(sorted(good))
    stem, _, kind = name.partition(".")
    if draw.random() < 0.5:
        rows = mutated_value(draw, ROWS[stem])
        try:
            return name, WRITERS[kind](rows if isinstance(rows, list) else [rows])
        except Exception:  # the writers raise many classes where no such file can be written
            pass
    if kind == "jsonl.gz" and draw.random() < 0.5:
        return name, gzip.compress(mutated(draw, good[f"{stem}.jsonl"]), mtime=0)
    return name, mutated(draw, good[name], good[draw.choice(sorted(good))])


def check_words(text: str) -> None:
    """Every terminal can show it, and nothing in it steers one."""
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)


def read(path: Path) -> None:
    """Read as each kind of record, and describe what was found as `prl data` does."""
    refused = []
    for kind in (PreferencePair, AnchoredPrompt, Demonstration):
        for on_invalid in ("skip", "error"):
            try:
                loaded = load_records(DataSource(str(path)), kind, on_invalid)
            except DataError as error:
                check_words(str(error))
                refused.append(error)
            else:
                first = first_record(loaded.records[0])
                found = {"report": loaded.report.as_dict(), "first": first, **describe(loaded.records)}
                check_words(as_text(found))
                json.dumps(found)
    for further in (read_annotations, read_benchmark):
        try:
            further(path)
        except DataError as error:
            check_words(str(error))
    if refused:
        raise refused[0]


def read_annotations(path: Path) -> None:
    """Read what annotators say, as `prl judge --labels` does."""
    annotations = Annotations()
    load_records(DataSource(str(path)), AnnotatedPair, "skip", annotations.add)
    check_words("".join(map(repr, annotations.annotators)))
    assert annotations.order_tells() in (True, False)
    for pair in annotations.pairs:
        assert pair.drawn_first() in (0, 1)
        assert all(0 <= said <= 1 for said in pair.annotations.values())


def read_benchmark(path: Path) -> None:
    """Read rows of RewardBench, as `prl judge --rewardbench` does."""
    for row in load_records(DataSource(str(path)), BenchmarkRow, "skip").records:
        assert row.chosen
        assert row.rejected
        assert row.version in (1, 2)
