"""Rows of JSON files: an object per line, or one array of objects. One decoder reads both, by the same rules."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from prl.data.rows.row_errors import DataError, RawRow, RowError, bad_byte

_CHUNK = 2**20
"""Characters of an array that are read at once; a longer row is read by doubling."""
_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_LITERAL = 12
"""Characters before the end of what was read where an error may be of the cut alone, as in `-Infin` or `\\u00`."""


class _Decoder:
    """Python's decoder, which also notices duplicate keys of an object; JSON does not define which one counts."""

    def __init__(self) -> None:
        self.twice: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            self.twice.append(next(name for name in names if names.count(name) > 1))
        return made

    def whole(self, text: str) -> Any:
        """Decode a text that is one value."""
        self.twice = []
        return self._decoder.decode(text)

    def first(self, text: str, start: int) -> tuple[Any, int]:
        """Decode the value that begins at an offset, and return where it ends."""
        self.twice = []
        return self._decoder.raw_decode(text, start)

    def row(self, value: Any) -> RawRow:
        """Return the last value as a row."""
        if not isinstance(value, dict):
            return RowError("invalid JSON", None, f"a {type(value).__name__}")
        if self.twice:
            return RowError("key given twice", self.twice[0], "two values")
        return value


def line_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, RawRow]]:
    """Yield the object of each line with the number of the line; blank lines have none.

    Lines are decoded one at a time, so that one bad byte costs one row.
    """
    decoder = _Decoder()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _line_row(decoder, line)


def _line_row(decoder: _Decoder, line: bytes) -> RawRow:
    try:
        value = decoder.whole(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowError("undecodable text", None, f"byte 0x{line[error.start]:02x} at position {error.start}")
    except (ValueError, RecursionError) as error:
        return RowError("invalid JSON", None, f"{line[:40]!r}: {error}")
    return decoder.row(value)


class _Text:
    """A file that is read on demand; `text[at:]` is the unused part."""

    def __init__(self, file: TextIO) -> None:
        self._file, self.text, self.at = file, "", 0

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        left = self.text[self.at :]
        new = self._file.read(max(_CHUNK, len(left)))
        self.text, self.at = left + new, 0
        return bool(new)

    def peek(self) -> str:
        """Return the next character that is no white space; empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]


def json_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """Yield each object of an array with its number, from 1; in a file without an array, those of its lines.

    Raises:
        DataError: where the text of an array is no JSON. The rows after that place cannot be told apart, and so not be
            skipped.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        text = _Text(file)
        if text.peek() == "[":
            yield from _array_rows(path, text)
            return
        if text.text[text.at :].partition("\n")[0].strip() == "{":
            raise DataError(
                f"{path} begins with an object over several lines; expected an array of objects, or one object per line"
            )
    with path.open("rb") as lines:
        yield from line_rows(lines)


def _array_rows(path: Path, text: _Text) -> Iterator[tuple[int, RawRow]]:
    decoder, number = _Decoder(), 0
    text.at += 1
    more = text.peek() != "]"
    text.at += not more
    while more:
        number += 1
        yield number, _next_row(path, text, decoder, number)
        mark = text.peek()
        if mark not in (",", "]"):
            found = f"{mark!r} behind it" if mark else "the end of the file"
            raise _broken(path, number, f"{found}, where a comma or the end of the array was expected")
        text.at += 1
        more = mark == ","
    if text.peek():
        raise _broken(path, number, f"{text.text[text.at :][:40]!r} behind the end of the array")


def _next_row(path: Path, text: _Text, decoder: _Decoder, number: int) -> RawRow:
    text.peek()
    while True:
        try:
            value, end = decoder.first(text.text, text.at)
        except json.JSONDecodeError as error:
            position = error.pos - text.at
            cut = error.msg.startswith("Unterminated") or len(text.text[error.pos :].lstrip()) < _LONGEST_LITERAL
            if cut and text.more():
                continue
            beginning = text.text[text.at :][:40].encode(errors="surrogateescape")
            raise _broken(path, number, f"{beginning!r}: {error.msg} at character {position}") from None
        except (ValueError, RecursionError) as error:
            beginning = text.text[text.at :][:40].encode(errors="surrogateescape")
            raise _broken(path, number, f"{beginning!r}: {error}") from None
        length = end - text.at
        if end < len(text.text) or not text.more():  # a number at the end may go on
            break
    written = text.text[text.at : text.at + length]
    text.at += length
    if wrong := bad_byte(written):
        return RowError("undecodable text", None, wrong)
    return decoder.row(value)


def _broken(path: Path, number: int, found: str) -> DataError:
    return DataError(
        f"{path}, row {number}: found {found} (invalid JSON); expected an array of objects. What follows cannot be "
        "read either: repair the file, or write it as .jsonl, where one bad line is one bad row"
    )
