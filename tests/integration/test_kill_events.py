"""Killed at any of its file events, a short run goes on or starts anew, and ends to the bit where it should."""

import os
import sys

import pytest

from tests.helpers.processes import run_all
from tests.integration.runs import CONFIGS
from tests.kill_events import RUNS


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_killed_at_file_events_a_run_ends_like_an_uninterrupted_one(run: str) -> None:
    """Every fourth event; `python -m tests.kill_events` tries all."""
    command = [sys.executable, "-m", "tests.kill_events", run, "--every", "4"]
    ended = run_all(command, cwd=CONFIGS.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stdout + ended.stderr
