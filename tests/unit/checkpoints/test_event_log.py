"""Events of a run."""

from pathlib import Path

import pytest

from prl.checkpoints.event_log import EventLog


def test_lines_are_kept_in_order_and_no_events_make_no_file(tmp_path: Path) -> None:
    event_log = EventLog(tmp_path / "run" / "events.jsonl")
    event_log.append(1, [])
    assert not event_log.path.exists()
    event_log.append(1, [{"text": "größer"}, {"text": "b"}])
    event_log.append(3, [{"text": "c"}])
    assert event_log.read() == [
        {"batch": 1, "text": "größer"},
        {"batch": 1, "text": "b"},
        {"batch": 3, "text": "c"},
    ]


def test_whatever_a_text_holds_is_one_line(tmp_path: Path) -> None:
    event_log = EventLog(tmp_path / "events.jsonl")
    text = "a\u2028b\u2029c\x85d\re\nf"
    event_log.append(1, [{"text": text, "rate": float("nan")}])
    event_log.truncate_after(1)
    assert event_log.read() == [{"batch": 1, "text": text, "rate": None}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    event_log = EventLog(tmp_path / "events.jsonl")
    event_log.path.write_text('{"batch": 1}\nnonsense\n{"batch": 2}\n')
    with pytest.raises(ValueError, match=r"events.jsonl, line 2 is no JSON: 'nonsense'; take the line out"):
        event_log.truncate_after(2)


@pytest.mark.parametrize(
    "line", [b"[1]", b"3", b"{}", b'{"batch": "1"}', b'{"a": "\xff"}', b"[" * 100_000, b"9" * 5000]
)
def test_a_line_of_another_shape_is_named(line: bytes, tmp_path: Path) -> None:
    event_log = EventLog(tmp_path / "events.jsonl")
    event_log.path.write_bytes(b'{"batch": 1}\n' + line + b'\n{"batch": 2}\n')
    with pytest.raises(ValueError, match=r"events.jsonl, line 2 (is no JSON|names no batch): "):
        event_log.truncate_after(2)


def test_a_resumed_run_forgets_lost_batches_and_half_a_line(tmp_path: Path) -> None:
    event_log = EventLog(tmp_path / "events.jsonl")
    for batch in (1, 2, 3):
        event_log.append(batch, [{"text": str(batch)}])
    with event_log.path.open("a") as file:
        file.write('{"batch": 2, "te')  # killed here
    event_log.truncate_after(2)
    event_log.append(3, [{"text": "again"}])
    assert [line["text"] for line in event_log.read()] == ["1", "2", "again"]
    event_log.truncate_after(0)  # a run that begins anew in the same folder
    assert event_log.read() == []
