"""Finished parts of a file in the making: a command that was killed goes on behind the last one."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prl.system.json_files import parse_object
from prl.system.outputs import write_text, writing


def parts_of(output: Path) -> Path:
    """Return the folder of a file's parts."""
    return output.with_suffix(".parts")


class Parts:
    """Parts of a file of rows, by the number of their first prompt, in a folder beside it.

    Args:
        folder: made with the first part.
        about: everything that decides the rows, as JSON values.

    Raises:
        ValueError: when the folder's parts were made with other settings.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        settings = json.loads(json.dumps(about))
        self._file = folder / "settings.json"
        if self._file.exists():
            before = parse_object(self._file.read_text(encoding="utf-8"))
            if changed := sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name)):
                raise ValueError(
                    f"{folder} holds parts made with other settings ({', '.join(changed)}); finish with those, or "
                    "delete the folder"
                )
        self._settings = json.dumps(settings, indent=2) + "\n"

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:09d}.json"

    def has(self, start: int) -> bool:
        """Return whether a part is finished."""
        return self._path(start).exists()

    def add(self, start: int, rows: list[dict[str, Any]], counts: Counter[str]) -> None:
        """Keep a part."""
        if not self._file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self._file, self._settings)
        write_text(self._path(start), json.dumps({"rows": rows, "counts": counts}))

    def _read(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("[0-9]*.json")):
            yield json.loads(path.read_text(encoding="utf-8"))

    def counts(self) -> dict[str, int]:
        """Add up the counts of all parts."""
        return dict(sum((Counter(part["counts"]) for part in self._read()), Counter[str]()))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all parts."""
        for part in self._read():
            yield from part["rows"]

    def join(self, output: Path, rows: Iterable[dict[str, Any]] | None = None) -> None:
        """Write the rows of all parts to one file, or those that were made of them."""
        with writing(output) as partial, partial.open("w", encoding="utf-8") as out:
            out.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for row in (self.rows() if rows is None else rows)
            )

    def remove(self) -> None:
        """Delete the parts, their settings last: a kill in between leaves no parts that could be taken for others."""
        for path in self.folder.glob("[0-9]*.json"):
            path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)  # none were made of a file without prompts
