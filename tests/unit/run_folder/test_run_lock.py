"""A run folder has one trainer at a time, and is free again however that one ends."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from prl.run_folder.lock import HOLDER, RunInUseError, run_lock

HOLD = """
import os, sys, time
from pathlib import Path
from prl.run_folder.lock import run_lock
with run_lock(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader's workers are made
        print(os.getpid(), flush=True)  # by itself: once it runs, it has let go of what it inherited
    time.sleep(120)
"""


def test_a_second_process_is_refused_until_the_first_is_gone_though_its_worker_lives_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    worker = int(first.stdout.readline())
    try:
        for _ in range(2):  # a refusal leaves the lock as it is
            with (
                pytest.raises(RunInUseError, match=rf"run_dir .*run is in use: process {first.pid} on "),
                run_lock(run),
            ):
                pass
        first.kill()
        first.wait()
        os.kill(worker, 0)
        assert (run / HOLDER).exists()  # stale, and of no weight
        with run_lock(run):
            assert f"process {os.getpid()} on" in (run / HOLDER).read_text()
        assert not (run / HOLDER).exists()
    finally:
        first.kill()
        os.kill(worker, signal.SIGKILL)


def test_it_is_given_back_after_a_failure_and_held_by_the_first_of_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError), run_lock(tmp_path):
        raise KeyError
    with run_lock(tmp_path):
        for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
            with monkeypatch.context() as environment:
                environment.setenv(name, "1")
                with run_lock(tmp_path):
                    pass
        with pytest.raises(RunInUseError), run_lock(tmp_path):
            pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_where_nothing_can_be_locked_the_run_goes_on_with_a_word(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def acquire(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with run_lock(tmp_path):
        assert f"{tmp_path} cannot be locked" in caplog.text
