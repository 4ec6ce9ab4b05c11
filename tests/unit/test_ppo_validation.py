"""What a validation of PPO makes of its numbers: the alarm, and how long to wait."""

from typing import Any
from unittest.mock import Mock

import pytest

from lightning_modules import ppo_validation
from lightning_modules.ppo_validation import PPOValidation
from prl.config import Validation
from prl.evaluation.intervals import Interval


def validation(verb: str = "fit", **settings: Any) -> PPOValidation:
    module = Mock()
    module.batches_done.return_value = 5
    module.trainer.state.fn, module.trainer.should_stop = verb, False
    return PPOValidation(module, Validation(**settings))


@pytest.mark.parametrize(("gap", "alarm"), [(Interval(0.2, 0.05, 0.3), 0.0), (Interval(0.2, 0.11, 0.3), 1.0)])
def test_the_alarm_needs_all_of_the_interval(gap: Interval, alarm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo_validation, "judge_difference", lambda _: {})
    monkeypatch.setattr(ppo_validation, "goodhart_gap", lambda *_: gap)
    found = validation(gap_limit=0.1)
    found.first = {"a prompt": 0.0}
    assert found._gap([])["goodhart_alarm"] == alarm


@pytest.mark.parametrize(("verb", "waited"), [("fit", 1), ("validate", 0)])
def test_only_validations_of_training_are_waited_for(verb: str, waited: int) -> None:
    found = validation(verb, patience=1)
    found.patience.observe(1, {"win_rate": 0.6, "win_rate_lo": 0.5})
    numbers = {"win_rate": 0.5, "win_rate_lo": 0.4}
    found._wait(numbers)
    assert numbers["since_best"] == waited
    assert found.module.trainer.should_stop is bool(waited)
