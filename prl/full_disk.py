"""A disk that is full, told as that and with the path, whichever library came upon it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NUMBERS = (errno.ENOSPC, errno.EDQUOT)
WORDS = tuple(os.strerror(number) for number in NUMBERS)
"""Libraries that have an error of their own (safetensors) put the system's words into it."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NUMBERS:
            return True
        if any(words in str(error) for words in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def path_behind(error: BaseException | None) -> str | None:
    """The path that an error of a full disk names, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NUMBERS and error.filename is not None:
            return str(error.filename)
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def naming_when_full(path: Path | str) -> Iterator[None]:
    """Within it, an error of a full disk names the path that was written.

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
    """torch.save to a path, with the system's error when a write fails: torch's own tells of a position in the file.

    Raises:
        OSError: naming the path.
    """
    import torch

    with open(path, "wb") as file:
        noting = _Noting(file)
        try:
            torch.save(content, noting)
        except RuntimeError:
            if noting.error is None:
                raise
            raise OSError(noting.error.errno, noting.error.strerror, str(path)) from noting.error
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


class _Noting:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

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
