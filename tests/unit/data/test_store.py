"""Encoded records on disk: made once, found again only where nothing has changed, and never all in memory."""

import errno
import importlib
import json
import os
import re
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest

from prl.data import AnchoredPrompt, DataError, DataSource, PreferencePair, RecordStream, load_records, store
from prl.data.encoding import PromptEncoder, ScalarPairEncoder, encode_prompt
from prl.data.store import REPORT, ROWS, EncodedRecords, encode_records
from prl.data.tokens import Truncation
from prl.judge import ComparisonEncoder, JudgeTemplate
from tests.helpers.tiny import tiny_tokenizer
from tests.helpers.tokenizers import bos_tokenizer

TEMPLATE = JudgeTemplate("P:{{ prompt }} 1:{{ response_a }} 2:{{ response_b }} best?", chat=False)
PAIRS = [
    {"prompt": f"{'long ' * (3 * i % 7)}{i}?", "chosen": f"yes {i}", "rejected": "no", "preference": i / 10}
    for i in range(9)
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PRL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "home" / "encoded"


def write(path: Path, rows: list[dict[str, Any]]) -> DataSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSource(str(path))


@pytest.fixture
def source(tmp_path) -> DataSource:
    return write(tmp_path / "pairs.jsonl", PAIRS)


def judge_encoder(max_length: int = 60, on_too_long: Any = "truncate", **settings: Any) -> ComparisonEncoder:
    arguments = {"tokenizer": tiny_tokenizer(), "template": TEMPLATE} | settings
    return ComparisonEncoder(max_length=max_length, on_too_long=on_too_long, **arguments)


def encode(source: DataSource, encoder: Any, cache: bool = True, **reading: Any) -> tuple[EncodedRecords, int]:
    """Encode the records, and count how many of them the encoder was asked for."""
    stream = RecordStream(source, **({"kind": PreferencePair} | reading))
    asked = []
    plain = encoder.encode
    encoder.encode = lambda record: asked.append(1) or plain(record)
    return encode_records(stream, stream, encoder, cache), len(asked)


def content(records: EncodedRecords) -> dict[str, Any]:
    arrays = ("prompts", "comparisons", "winners", "truncations", "lengths")
    kept = {name: getattr(records, name).tolist() for name in arrays}
    return kept | {"rows": records.rows.to_list(), "report": records.report}


# ---- what is kept


def test_rows_are_what_the_encoder_gives_to_the_last_bit(source) -> None:
    encoder = judge_encoder(50, "skip")
    records, asked = encode(source, encoder)
    given = [judge_encoder(50, "skip").encode(pair) for pair in RecordStream(source, PreferencePair)]
    assert asked == len(PAIRS)
    assert records.rows.to_list() == [row for row in given if row is not None]
    assert 0 < len(records.rows) < len(PAIRS)
    assert records.encoded.tolist() == [row is not None for row in given]
    assert records.lengths.tolist() == [row["length"] if row else 0 for row in given]
    assert set(records.truncations.tolist()) == {0, Truncation.TOO_LONG}


def test_rows_of_chosen_records_come_in_their_order(source) -> None:
    records, _ = encode(source, judge_encoder(50, "skip"))
    chosen = np.array([7, 8, 2, 0])
    targets = [PAIRS[i]["preference"] for i in chosen if records.encoded[i]]
    assert 0 < len(targets) < 4
    assert [row["target"] for row in records.rows_of(chosen).to_list()] == targets


def test_prompts_with_messages_and_anchors_are_the_same_in_a_batch(tmp_path) -> None:
    rows = [
        {"prompt": "Hi?", "anchors": ["a", "b"]},
        {"prompt": [{"role": "user", "content": "é\u2028"}], "anchor": "c"},
    ]
    prompts = write(tmp_path / "prompts.jsonl", rows)
    encoder = PromptEncoder(tiny_tokenizer(), 20)
    read, _ = encode(prompts, encoder, kind=AnchoredPrompt)
    given = encoder.collate([encoder.encode(record) for record in RecordStream(prompts, AnchoredPrompt)])
    batch = encoder.collate(read.rows.__getitems__([0, 1]))
    assert (batch.prompts, batch.anchors) == (given.prompts, given.anchors) == (batch.prompts, [("a", "b"), ("c",)])
    assert batch.prompt_ids.tolist() == given.prompt_ids.tolist()


# ---- found again, or not


@pytest.mark.parametrize("cache", [True, False])
def test_the_second_time_nothing_is_encoded(source, home, cache) -> None:
    first, asked = encode(source, judge_encoder(), cache)
    assert asked == len(PAIRS)
    again, asked = encode(source, judge_encoder(), cache)
    assert asked == (0 if cache else len(PAIRS))
    assert content(first) == content(again)
    assert home.exists() == cache


def test_the_same_data_elsewhere_is_found_under_its_own_name(source, tmp_path) -> None:
    encode(source, judge_encoder())
    copy = write(tmp_path / "copy.jsonl", PAIRS)
    records, asked = encode(copy, judge_encoder())
    assert (asked, records.report["source"]) == (0, copy.path)


def with_merges() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["yes"])
    return tokenizer


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "template": ({"template": replace(TEMPLATE, text=TEMPLATE.text + "!")}, {}, {}),
    "max_length": ({"max_length": 61}, {}, {}),
    "on_too_long": ({"on_too_long": "skip"}, {}, {}),
    "vocabulary": ({"tokenizer": with_merges()}, {}, {}),
    "bos": ({"tokenizer": bos_tokenizer(True, None)}, {}, {}),
    "limit": ({}, {"limit": 8}, {}),
    "columns": ({}, {"columns": {"preference": None}}, {}),
    "on_invalid": ({}, {}, {"on_invalid": "skip"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_encoder_or_reading_is_another_set(change, source, home) -> None:
    encode(source, judge_encoder())
    encoder, where, reading = CHANGES[change]
    _, asked = encode(replace(source, **where), judge_encoder(**encoder), **reading)
    assert asked == where.get("limit", len(PAIRS))
    assert encode(source, judge_encoder())[1] == 0  # the first one is still there


def test_another_kind_of_encoder_is_another_set(source) -> None:
    encode(source, ScalarPairEncoder(tiny_tokenizer(), 60))
    assert encode(source, judge_encoder())[1] == len(PAIRS)


def test_one_changed_letter_in_the_file_is_another_set(source) -> None:
    encode(source, judge_encoder())
    path = Path(source.path)
    stamp = path.stat()
    path.write_text(path.read_text().replace("yes 4", "yes 5"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert encode(source, judge_encoder())[1] == len(PAIRS)


def test_changed_code_is_another_set(source, monkeypatch) -> None:
    encode(source, judge_encoder())
    monkeypatch.setattr(store.transformers, "__version__", "0")
    assert encode(source, judge_encoder())[1] == len(PAIRS)


DAMAGES = ["rows cut", "rows flipped", "records gone", "records flipped", "report gone", "report cut", "report flipped"]


@pytest.mark.parametrize("damage", [*DAMAGES, "report of another kind"])
def test_a_damaged_set_is_made_again_with_one_line(damage, source, home, caplog) -> None:
    whole, _ = encode(source, judge_encoder())
    expected = content(whole)
    [folder] = [path for path in home.iterdir() if path.is_dir()]
    what, _, how = damage.partition(" ")
    path = folder / {"rows": ROWS, "records": "records.npz", "report": REPORT}[what]
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "flipped":  # in the tokens of a row, a winner, a number of the report: nothing that a reader trips over
        data = bytearray(path.read_bytes())
        data[len(data) // 2 if what != "report" else data.index(b"num_read") + len(b'num_read\\": ')] ^= 1
        path.write_bytes(data)
    else:
        path.write_text("[]")
    again, asked = encode(source, judge_encoder())
    assert asked == len(PAIRS)
    assert content(again) == expected
    [told] = caplog.messages
    assert re.search(f"the cache in {re.escape(str(folder))} is damaged .*; its rows are encoded again", told)
    assert encode(source, judge_encoder())[1] == 0
    assert len(caplog.messages) == 1


def test_a_full_disk_costs_the_cache_and_not_the_run(source, home, monkeypatch, caplog) -> None:
    from datasets.arrow_writer import ArrowWriter

    plain = ArrowWriter.finalize

    def full(self: Any, *args: Any) -> Any:
        if is_full or str(home) in self._path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, *args)

    is_full = False
    monkeypatch.setattr(ArrowWriter, "finalize", full)
    records, asked = encode(source, judge_encoder())
    assert (len(records.rows), asked) == (len(PAIRS), 2 * len(PAIRS))
    [told] = caplog.messages
    assert re.search(r"the cache in .* cannot be written \(.*No space left on device\)", told)
    assert [path for path in home.iterdir() if path.is_dir()] == []  # half a set would keep the disk full
    is_full = True
    with pytest.raises(DataError, match=r"pairs\.jsonl cannot be written into the temporary .*No space.*set TMPDIR to"):
        encode(source, judge_encoder())


def test_what_fails_half_way_leaves_nothing_to_find(source, home) -> None:
    encoder = judge_encoder()
    encoder.encode = lambda record, plain=encoder.encode: 1 / 0 if record.chosen == "yes 5" else plain(record)
    with pytest.raises(ZeroDivisionError):
        encode(source, encoder)
    assert [path for path in home.iterdir() if path.is_dir()] == []
    assert encode(source, judge_encoder())[1] == len(PAIRS)


def test_what_a_killed_process_left_is_cleared_away(source, home) -> None:
    encode(source, judge_encoder())
    [folder] = [path for path in home.iterdir() if path.is_dir()]
    folder.rename(f"{folder}.tmpkilled")
    assert encode(source, judge_encoder())[1] == len(PAIRS)
    assert [path.name for path in home.iterdir() if path.is_dir()] == [folder.name]


def test_of_several_at_once_one_encodes_and_the_others_wait(source) -> None:
    asked, found = [], []

    def work() -> None:
        encoder = judge_encoder()
        plain = encoder.encode
        encoder.encode = lambda record: time.sleep(0.01) or asked.append(1) or plain(record)
        stream = RecordStream(source, PreferencePair)
        found.append(content(encode_records(stream, stream, encoder, True)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == len(PAIRS)
    assert found[0] == found[1] == found[2]


def test_a_cache_that_cannot_be_written_is_named_and_done_without(source, tmp_path, monkeypatch, caplog) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRL_HOME", str(tmp_path / "file"))
    records, asked = encode(source, judge_encoder())
    assert asked == len(records.rows) == len(PAIRS)
    [told] = caplog.messages
    assert re.search(r"the cache in .*file cannot be written.*set PRL_HOME .*or data\.cache to false", told)
    caplog.clear()
    assert encode(source, judge_encoder(), cache=False)[1] == len(PAIRS)
    assert not caplog.messages


def test_the_default_place_is_the_cache_folder_of_the_user(monkeypatch) -> None:
    from prl.data.store import cache_home

    monkeypatch.delenv("PRL_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_home() == Path("/caches/prl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert cache_home() == Path("/home/ann/.cache/prl")


# ---- sets larger than memory


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv", "json"])
def test_a_streamed_file_gives_the_same_set(suffix, source, tmp_path) -> None:
    rows = [*PAIRS, PAIRS[0] | {"chosen": ""}, PAIRS[1]]
    path = tmp_path / f"table.{suffix}"
    if suffix in ("jsonl", "json"):
        path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    else:
        getattr(datasets.Dataset.from_list(rows), f"to_{suffix}")(str(path))
    sets = [
        encode(DataSource(str(path), streaming=streaming), judge_encoder(), cache=False, on_invalid="skip")[0]
        for streaming in (False, True)
    ]
    assert content(sets[0]) == content(sets[1])
    assert len(sets[0].truncations) == len(PAIRS) + 1


def test_a_streamed_hub_set_is_known_by_its_commit(monkeypatch) -> None:
    calls = []

    def load_dataset(path: str, **settings: Any) -> Any:
        calls.append(settings)
        return datasets.Dataset.from_list(PAIRS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    commit = ["one"]
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: SimpleNamespace(sha=commit[0]))
    hub = DataSource("owner/pairs", split="train", streaming=True)
    first, asked = encode(hub, judge_encoder())
    assert calls == [{"name": None, "split": "train", "streaming": True}]
    assert asked == len(PAIRS)
    assert encode(hub, judge_encoder())[1] == 0
    assert len(calls) == 1
    commit[0] = "two"
    assert encode(hub, judge_encoder())[1] == len(PAIRS)

    def offline(self: Any, name: str) -> None:
        raise RuntimeError("no route")  # what the client raises is no OSError as a rule

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    again, asked = encode(hub, judge_encoder())
    assert asked == len(PAIRS)
    assert content(again) == content(first)


def test_an_error_in_the_middle_of_a_stream_is_explained(monkeypatch) -> None:
    def broken() -> Any:
        yield PAIRS[0]
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: broken())
    with pytest.raises(DataError, match=r"owner/pairs is not a local file.*split=None\): ConnectionError: no route"):
        list(RecordStream(DataSource("owner/pairs", streaming=True), PreferencePair))


class Trivial:
    """An encoder that costs nothing, and watches how many records are alive."""

    fingerprint = "trivial"

    def __init__(self) -> None:
        self.alive = self.most_alive = 0

    def encode(self, record: PreferencePair) -> dict[str, Any]:
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(record, self.forget)
        return {"ids": [1, 2, 3], "length": 3}

    def forget(self) -> None:
        self.alive -= 1


def test_no_more_than_a_few_records_are_in_memory(tmp_path) -> None:
    number = 10_000
    path = tmp_path / "many.jsonl"
    with path.open("w") as file:
        for i in range(number):
            file.write(f'{{"prompt": "p{i}", "chosen": "c{i}", "rejected": "r"}}\n')
    encoder = Trivial()
    stream = RecordStream(DataSource(str(path)), PreferencePair)
    records = encode_records(stream, stream, encoder, cache=False)
    assert len(records.rows) == number
    assert encoder.most_alive <= 3
    arrays = [getattr(records, name).nbytes for name in ("prompts", "comparisons", "winners", "truncations", "lengths")]
    assert sum(arrays) == number * (32 + 16 + 1 + 1 + 4)
    assert records.rows.cache_files  # in a file that is mapped, not in memory


# ---- encoders of other people


class Given:
    """An encoder whose rows are given, one for each record."""

    fingerprint = "given"

    def __init__(self, values: list[Any]) -> None:
        self.values = iter(values)

    def encode(self, record: PreferencePair) -> dict[str, Any]:
        return {"value": next(self.values), "length": 1}


@pytest.mark.parametrize("values", [[[1], [2, 3]], [[1, 0.5], [2.0]], [["a"], []], [[[1], []], [[2]]]])
def test_lists_of_any_kind_are_kept_as_they_are(source, values) -> None:
    records, _ = encode(replace(source, limit=len(values)), Given(values), cache=False)
    assert records.rows["value"][:] == values


def test_a_source_that_is_no_utf8_is_kept_all_the_same(tmp_path) -> None:
    records, _ = encode(write(tmp_path / "pairs.jsonl", [PAIRS[0] | {"source": "a\ud83d"}]), judge_encoder())
    assert records.rows["source"][:] == ["a?"]


def test_the_code_of_base_classes_counts_too(source, tmp_path, monkeypatch) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine").mkdir()
    code = tmp_path / "theirs" / "their_base.py"
    code.write_text("from prl.judge import ComparisonEncoder\n\nclass Base(ComparisonEncoder):\n    pass\n")
    (tmp_path / "mine" / "my_encoder.py").write_text("from their_base import Base\n\nclass Mine(Base):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / "theirs"))
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    mine = importlib.import_module("my_encoder").Mine
    assert encode(source, mine(tiny_tokenizer(), TEMPLATE, 60))[1] == len(PAIRS)
    assert encode(source, mine(tiny_tokenizer(), TEMPLATE, 60))[1] == 0
    code.write_text(code.read_text() + "\n# changed\n")
    assert encode(source, mine(tiny_tokenizer(), TEMPLATE, 60))[1] == len(PAIRS)


def test_a_streamed_file_that_is_not_there_is_named_without_asking_the_hub(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: pytest.fail("the hub was asked"))
    with pytest.raises(DataError, match=r"no data file at .*gone\.jsonl"):
        encode(DataSource(str(tmp_path / "gone.jsonl"), streaming=True), judge_encoder())


def test_a_row_that_the_chat_template_refuses_is_a_bad_row(tmp_path) -> None:
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    rows = [row | ({"prompt": system} if number in (4, 6) else {}) for number, row in enumerate(PAIRS, 1)]
    rows[7] = {"prompt": "no responses"}
    source = write(tmp_path / "pairs.jsonl", rows)
    tokenizer = tiny_tokenizer()
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer.chat_template = no_system + tokenizer.chat_template
    with pytest.raises(DataError) as caught:
        encode(source, ScalarPairEncoder(tokenizer, 60))
    told = str(caught.value)
    assert "3 of 9 rows" in told
    assert "row 4, field 'prompt': found messages of system, user, of which it says: System role not supported" in told
    assert "1 more like it: row 6" in told
    for cache in (True, True, False):  # written, found again, made anew
        records, _ = encode(source, ScalarPairEncoder(tokenizer, 60), cache, on_invalid="skip")
        assert len(records.rows) == len(records.truncations) == records.report["num_kept"] == 6
        assert records.report["skipped"]["refused by the chat template"] == [4, 6]
    check = lambda pair: encode_prompt(tokenizer, pair.prompt)  # noqa: E731
    loaded = load_records(source, PreferencePair, "skip", check)
    assert loaded.report.as_dict() == records.report
    assert len(loaded.records) == 6
    with pytest.raises(DataError, match="row 4, field 'prompt'.*1 more like it: row 6"):
        load_records(source, PreferencePair, "error", check)
