"""Signals that request a stop: the trainer records them, and loader workers leave them to the trainer."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def stop_signals_wait() -> Iterator[None]:
    """Block signals to this thread inside the block; processes that start here inherit it until they change it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def handled_by(handler: Callable[[int], None]) -> Iterator[None]:
    """Call a handler with the number of each signal inside the block. Python allows this in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, earlier in before.items():
        # Under nohup, a terminal that hangs up is no request to stop.
        if number != getattr(signal, "SIGHUP", None) or earlier != signal.SIG_IGN:
            signal.signal(number, lambda received, _: handler(received))
    try:
        yield
    finally:
        for number, earlier in before.items():
            if earlier is not None:  # one that Python did not install
                signal.signal(number, earlier)


@contextmanager
def exiting_on_signals(words: str) -> Iterator[None]:
    """Make of a signal inside the block an exit with 128 + its number, as a shell has it, and say how to go on.

    So what is open is closed, and what is half written deleted. An exit with such a code by a run inside counts too.
    """

    def leave(number: int) -> None:
        raise SystemExit(128 + number)

    try:
        with handled_by(leave):
            yield
    except SystemExit as stop:
        if stop.code in [128 + number for number in STOP_SIGNALS]:
            sys.stderr.write(f"{words}\n")
        raise


def leave_signals_to_parent() -> None:
    """Leave signals to the process group to the trainer, in a loader worker; only the trainer ends the worker.

    A SIGTERM of the trainer still ends the worker, as torch and multiprocessing send it when a program ends: the sender
    of the signal decides.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):  # macOS does not report the sender of a signal
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
