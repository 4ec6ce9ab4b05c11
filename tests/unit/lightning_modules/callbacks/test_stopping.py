"""Signals and lost output: what a run hears, and how commands end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.callbacks.stop_signals import StoppedRun, StopSignals
from prl import __version__
from prl.system import terminal

PIPE = 128 + signal.SIGPIPE


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    """Installed, and undone at the end."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield StopSignals()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handlers[number])


def test_a_terminal_that_hangs_up_is_a_wish_to_stop_but_not_under_nohup(signals: StopSignals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signals.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signals.received == signal.SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.install()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_second_ctrl_c_ends_with_the_code_of_the_signal(signals: StopSignals) -> None:
    signals.install()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(StoppedRun) as ending:
        os.kill(os.getpid(), signal.SIGINT)
    assert ending.value.code == 130


def test_signals_and_lost_output_are_heard_from_lightnings_taking_over_until_its_end(
    signals: StopSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(terminal, "listen", heard.append)
    monkeypatch.setattr(terminal, "stop_listening", heard.remove)
    connector: Any = SimpleNamespace(register_signal_handlers=lambda: None, teardown=lambda: None)
    signals.follow(connector)
    connector.register_signal_handlers()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == [signals._note] * 2
    assert len(heard) == 1
    connector.teardown()
    assert heard == []


def lost_output() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_run_hears_that_nobody_reads_its_output_and_goes_on(
    signals: StopSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", os.fdopen(lost_output(), "w"))
    with terminal.guarded():
        terminal.listen(signals._note_lost_output)
        sys.stdout.write("a line\n")
        sys.stdout.flush()
        sys.stdout.write("another one, which goes nowhere\n")
        sys.stdout.flush()
        terminal.stop_listening(signals._note_lost_output)
    assert signals.received == signal.SIGPIPE


@pytest.mark.parametrize("lost", ["nobody", "pipe", "full"])
def test_a_command_whose_output_is_lost_ends_without_a_traceback(lost: str) -> None:
    target = {"nobody": subprocess.PIPE, "pipe": lost_output(), "full": os.open("/dev/full", os.O_WRONLY)}[lost]
    command = [sys.executable, "-m", "prl", "--version"]
    done = subprocess.run(command, stdout=target, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == {"nobody": 0, "pipe": PIPE, "full": 1}[lost]
    assert done.stderr == ("prl: OSError: No space left on device: <stdout>\n" if lost == "full" else "")
    assert lost != "nobody" or done.stdout == f"prl {__version__}\n"
