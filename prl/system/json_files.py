"""JSON files whose contents may be damaged: an object, or an error that describes the damage."""

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 64 << 20
"""Limit of a file that is read whole, in bytes; prl's own have some kilobytes."""


def parse_object(text: str | bytes, *, with_nan: bool = False) -> dict[str, Any]:
    """Parse an object.

    Args:
        text: text of the object.
        with_nan: accept NaN and Infinity, which Python writes and JSON does not have.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = json.loads(text, parse_constant=float if with_nan else _refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is {'null' if found is None else type(found).__name__}; expected an object")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds an object.

    Raises:
        ValueError: with the damage; the caller adds file and fix.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {size >> 20} MiB; expected some kilobytes")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    return parse_object(content)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")
