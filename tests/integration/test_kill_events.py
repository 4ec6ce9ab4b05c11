"""Killed at any of its file events, a short run goes on or starts anew, and ends to the bit where it should."""

import os
import subprocess
import sys

import pytest

from tests.helpers.processes import run_all
from tests.integration.runs import CONFIGS
from tests.kill_events import RUNS


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_killed_at_file_events_a_run_ends_like_an_uninterrupted_one(run: str) -> None:
    """Every fourth event; `python -m tests.kill_events` tries all."""
    ended = run_module("tests.kill_events", run, "--every", "4")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
def test_rounds_that_are_ended_in_any_step_go_on_to_the_same_files() -> None:
    """One event of each step; `python -m tests.kill_rounds --every 1` tries all."""
    ended = run_module("tests.kill_rounds")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def run_module(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return run_all([sys.executable, "-m", *command], cwd=CONFIGS.parent, env=environment)
