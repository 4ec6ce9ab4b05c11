"""Seconds of phases, of which one may be inside another."""

from unittest.mock import patch

import pytest
import torch

from prl.rl.phase_timer import PhaseTimer

CPU = torch.device("cpu")


def test_a_phase_inside_another_is_taken_from_it() -> None:
    moments = iter([0.0, 2.0, 5.0, 6.0, 6.5, 10.0])
    timer = PhaseTimer()
    with patch("prl.rl.phase_timer.perf_counter", lambda: next(moments)), timer.measure("rollout", CPU):
        with timer.measure("judge", CPU):
            pass
        with timer.measure("judge", CPU):
            pass
    assert timer.seconds == {"judge": pytest.approx(3.5), "rollout": pytest.approx(6.5)}
    timer.clear()
    assert not timer.seconds


def test_phases_after_each_other_are_whole_and_an_error_leaves_nothing_open() -> None:
    moments = iter([0.0, 1.0, 3.0, 5.0, 7.0])
    timer = PhaseTimer()
    with patch("prl.rl.phase_timer.perf_counter", lambda: next(moments)):
        with pytest.raises(KeyError), timer.measure("rollout", CPU):
            raise KeyError
        timer.clear()
        for name in ("rollout", "judge"):
            with timer.measure(name, CPU):
                pass
    assert timer.seconds == {"rollout": 2.0, "judge": 2.0}
