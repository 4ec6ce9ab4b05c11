"""Errors of a full disk, in one wording and with the path, whichever library raised them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

NUMBERS = (errno.ENOSPC, errno.EDQUOT)
WORDS = tuple(os.strerror(number) for number in NUMBERS)
"""System messages of a full disk, which libraries with errors of their own (safetensors) quote."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, reports a full disk or quota."""
    return any(
        (isinstance(each, OSError) and each.errno in NUMBERS) or any(words in str(each) for words in WORDS)
        for each in _behind(error)
    )


def path_behind(error: BaseException | None) -> str | None:
    """Return the path that an error of a full disk names, if any."""
    named = [each for each in _behind(error) if isinstance(each, OSError) and each.errno in NUMBERS and each.filename]
    return str(named[0].filename) if named else None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; an error that a thread raises again may be its own cause."""
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
    """Save by torch.save, but raise the system's error when a write fails: torch's error has a file position only.

    Raises:
        OSError: naming the path.
    """
    import torch

    noting = _Noting(open(path, "wb"))  # noqa: SIM115 - closed below, where closing may fail too
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
