"""Files of a policy's validations in the run folder: validation.jsonl (figures) and samples/ (every comparison)."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prl.checkpoints.event_log import json_safe
from prl.system.json_files import parse_object
from prl.system.outputs import writing

VALIDATIONS = "validation.jsonl"
SAMPLES = "samples"

ComparisonRow = dict[str, Any]
"""One comparison of a sampled response with an anchor, as in samples/batch=N.jsonl (docs/ppo.md)."""


class ValidationLog:
    """Files of one run folder, moved into place when complete, so that a killed process leaves no incomplete file.

    A resumed run repeats batches, and their validations replace the earlier ones.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def add(self, batch: int, numbers: dict[str, float], rows: Iterable[ComparisonRow]) -> None:
        """Keep one validation: a line of figures, and a file of its comparisons."""
        _write(self.samples(batch), rows)
        kept = [line for line in self.read() if line["batch"] < batch]
        _write(self.folder / VALIDATIONS, [*kept, {"batch": batch, **numbers}])

    def forget_after(self, batch: int) -> None:
        """Drop validations of batches that a run resumed at this batch has not trained yet."""
        lines = self.read()
        kept = [line for line in lines if line["batch"] <= batch]
        if len(kept) < len(lines):
            _write(self.folder / VALIDATIONS, kept)
        for path in (self.folder / SAMPLES).glob("batch=*.jsonl"):
            number = re.fullmatch(r"batch=(\d+)", path.stem)
            if number and int(number[1]) > batch:
                path.unlink()

    def read(self) -> list[dict[str, Any]]:
        """Read the figures, in order of validation; empty for a run without validations."""
        path = self.folder / VALIDATIONS
        return read_validations(path) if path.exists() else []

    def samples(self, batch: int) -> Path:
        """Return the path of a validation's comparisons."""
        return self.folder / SAMPLES / f"batch={batch:06d}.jsonl"

    def rows(self, batch: int) -> list[ComparisonRow]:
        """Read the comparisons of a validation; empty when there is no such file."""
        path = self.samples(batch)
        # Not splitlines: it splits at characters that a response may hold.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]


def read_validations(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a validation.jsonl in the order of their batches; the last line of a repeated batch counts.

    Raises:
        ValueError: for a line that is not an object with a batch number.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            values = parse_object(line, with_nan=True)
            found[int(values["batch"])] = values
        except (ValueError, KeyError, TypeError, OverflowError):
            raise ValueError(
                f"{path}, line {number}: expected an object with a number `batch`, found {line[:60]!r}; "
                "prl writes this file whole, so it was edited or cut: take the line out"
            ) from None
    return [found[batch] for batch in sorted(found)]


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with writing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(json_safe(line), ensure_ascii=False) + "\n" for line in lines)
