"""Standard output and error that may be lost: a closed pipe (`| head`), a terminal that hung up, a full disk."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

LOST = (errno.EPIPE, errno.EIO)
FULL = (errno.ENOSPC, errno.EDQUOT)
EXIT_CODE = 128 + getattr(signal, "SIGPIPE", 13)
"""Exit code that a shell reports for a program ended by a closed pipe."""

CAUSED_BY = "follows_from"
"""Attribute of an exception that another process caused: the explanation."""

_listeners: list[Callable[[], None]] = []


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """End the program without a traceback when its output is closed, unless a run listens for that."""
    given = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Guarded(stream) for stream in given)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()  # buffered output would meet the closed pipe when the interpreter exits
            sys.stderr.flush()
        finally:
            sys.stdout, sys.stderr = given


def listen(listener: Callable[[], None]) -> None:
    """Call `listener` instead of ending the program when output is lost."""
    _listeners.append(listener)


def stop_listening(listener: Callable[[], None]) -> None:
    """Undo `listen`."""
    if listener in _listeners:
        _listeners.remove(listener)


class _Guarded:
    """A text stream whose file descriptor leads to /dev/null from the first failed write on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._guard():
            return self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._guard():
            self._stream.flush()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (*LOST, *FULL):
                raise
            self._lead_nowhere()
            if not _listeners and error.errno in FULL:
                raise OSError(error.errno, error.strerror, self._stream.name) from None
            if not _listeners:
                raise SystemExit(EXIT_CODE) from None
            for listener in list(_listeners):
                listener()

    def _lead_nowhere(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
