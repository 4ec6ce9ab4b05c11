"""Events of a run as lines of a file: appended during training, and truncated where a resumed run continues."""

import json
import math
from pathlib import Path
from typing import Any

from prl.system.json_files import parse_object
from prl.system.outputs import write_text


class EventLog:
    """A jsonl file whose lines carry the number of their training batch.

    A killed process may leave half a line, and lines of batches that no checkpoint holds; `truncate_after`
    deletes both.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def truncate_after(self, batches_done: int) -> None:
        """Delete events of batches after the first `batches_done`."""
        kept = [line for line in self.read() if line["batch"] <= batches_done]
        if self.path.exists():
            write_text(self.path, "".join(map(_text, kept)))

    def append(self, batch: int, events: list[dict[str, Any]]) -> None:
        """Append the events of one batch; no file is made without events."""
        if events:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(_text({"batch": batch, **event}) for event in events)

    def read(self) -> list[dict[str, Any]]:
        """Read all complete lines."""
        content = self.path.read_bytes() if self.path.exists() else b""
        found = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):  # the last is half a line
            shown = line[:60].decode(errors="replace")
            try:
                found.append(parse_object(line, with_nan=True))
            except ValueError:
                raise ValueError(f"{self.path}, line {number} is no JSON: {shown!r}; take the line out") from None
            if type(found[-1].get("batch")) is not int:
                raise ValueError(f"{self.path}, line {number} names no batch: {shown!r}; take the line out")
        return found


def _text(line: dict[str, Any]) -> str:
    return json.dumps(json_safe(line), ensure_ascii=False) + "\n"


def json_safe(line: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite by null; JSON has none."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
