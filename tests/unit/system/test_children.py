"""A command in a process of its own hears of stops, and does not outlive the process that waits for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import os, signal, sys, time
from pathlib import Path
log = Path(sys.argv[1])
def heard(number, frame):
    with log.open("a") as file: file.write(f"heard {number}\\n")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, heard)
signal.signal(signal.SIGINT, heard)
log.write_text(f"{os.getpid()}\\n")
time.sleep(20)
with log.open("a") as file: file.write("heard nothing\\n")
"""
WAITER = """
import sys
from prl.system.children import run_apart
from prl.system.signals import exiting_on_signals
with exiting_on_signals("told how to go on"):
    code = run_apart([sys.executable, "-c", {worker!r}, {log!r}])
    sys.exit(code)
"""


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda by: by.name)
def test_a_signal_is_passed_on_and_its_exit_code_comes_back(by: signal.Signals, tmp_path: Path) -> None:
    if by == signal.SIGKILL and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a process of the end of its parent")
    log = tmp_path / "log"
    code = WAITER.format(worker=WORKER, log=str(log))
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as waiter:
        pid = int(wait_for(log, 1)[0])
        os.kill(waiter.pid, by)
        ended, errors = waiter.wait(), waiter.communicate()[1]
    told = signal.SIGTERM if by == signal.SIGKILL else by
    assert wait_for(log, 2) == [str(pid), f"heard {told}"]
    if by == signal.SIGKILL:
        assert ended == -by
    else:
        assert (ended, errors) == (128 + by, "told how to go on\n")


def wait_for(log: Path, lines: int) -> list[str]:
    """Read a file once it has so many lines."""
    while len(found := log.read_text().splitlines() if log.exists() else []) < lines:
        time.sleep(0.01)
    return found
