"""Errors of a full disk, worded alike and with the path, whichever library raised them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

NUMBERS = (errno.ENOSPC, errno.EDQUOT)
WORDS = tuple(os.strerror(number) for number in NUMBERS)
"""Libraries that have an error of their own (safetensors) put the system's words into it."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one behind it, says that a disk or a quota is full."""
    return any(
        (isinstance(each, OSError) and each.errno in NUMBERS) or any(words in str(each) for words in WORDS)
        for each in _behind(error)
    )


def path_behind(error: BaseException | None) -> str | None:
    """Return the path that an error of a full disk names, if any."""
    named = [each for each in _behind(error) if isinstance(each, OSError) and each.errno in NUMBERS and each.filename]
    return str(named[0].filename) if named else None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; one that a thread keeps and raises again may be its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def naming_when_full(path: Path | str) -> Iterator[None]:
    """Name the path in any error of a full disk that is raised inside.

    Raises:
        OSError: with the path, in place of the library's error.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error) or path_behind(error) is not None:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def save_tensors(content: Any, path: Path | str) -> None:
    """Save by torch.save, with the system's error when a write fails: torch's own gives a position in the file.

    Raises:
        OSError: naming the path.
    """
    import torch

    noting = _Noting(open(path, "wb"))  # noqa: SIM115 - closed below, where it may fail as well
    try:
        with noting.file:
            torch.save(content, cast(IO[bytes], noting))
    except (RuntimeError, OSError) as error:
        cause = noting.error or error
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from cause


class _Noting:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = self.error or error
            raise
