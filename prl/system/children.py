"""A command in a process of its own, for which this one waits."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from prl.system.signals import handled_by

_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def run_apart(command: list[str]) -> int:
    """Run a command in a session of its own, which may start further processes, and wait for it.

    Signals that ask for a stop are passed on, once each: a terminal sends Ctrl-C to the session of this process only.
    On Linux the process is told to stop when this one is killed.

    Returns:
        The exit code as a shell has it, 128 + its number for a signal.
    """
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int) -> None:
        if child is None:
            early.append(number)
        elif child.poll() is None:
            child.send_signal(number)

    with handled_by(pass_on):
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_told_of_parents_end())
        for number in early:
            child.send_signal(number)
        code = child.wait()
    return code if code >= 0 else 128 - code


def _told_of_parents_end() -> Callable[[], None] | None:
    """Return what a new process calls so that the end of this one sends it SIGTERM; None where there is no such way."""
    if not sys.platform.startswith("linux"):
        return None
    call, parent = ctypes.CDLL(None).prctl, os.getpid()

    def listen() -> None:
        call(_END_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(128 + signal.SIGTERM)

    return listen
