"""Validation of PPO: the over-optimisation alarm, patience, and the order of rows."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch

from lightning_modules import ppo_validation
from lightning_modules.ppo_validation import PPOValidation
from prl.config import Validation
from prl.evaluation.bootstrap import Interval
from prl.types import PromptBatch


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


def test_a_row_without_an_anchor_is_compared_with_the_reference_and_the_others_are_not() -> None:
    found = validation()
    module: Any = found.module
    module.generate.return_value = (Mock(), ["x", "y"])
    module.policies.reference_responses.return_value = ["from the reference", "from it too"]
    tokens = torch.ones(2, 1, dtype=torch.long)
    turns = [({"role": "user", "content": text},) for text in "pq"]
    batch, *_ = found._sample(PromptBatch(tokens, tokens.bool(), turns, [("own",), ()]), 0)
    assert batch.anchors == [("own",), ("from it too",)]
    assert module.judge_responses.call_args.args == (batch, ["x", "y"])


def test_figures_are_of_all_rows_in_one_order_whichever_process_had_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo_validation, "gathered", lambda own: [own, [{"row": 0}, {"row": 2}]])
    seen: list[int] = []
    monkeypatch.setattr(ppo_validation, "policy_report", lambda rows: seen.extend(row["row"] for row in rows) or {})
    found = validation("validate")
    found.module.heldout_judge, found.module.trainer.is_global_zero = None, False
    found.module.trainer.sanity_checking = False
    found._rows = [{"row": 3}, {"row": 1}]
    found.finish()
    assert seen == [0, 1, 2, 3]


def test_a_resumed_run_knows_its_first_difference_and_that_it_has_warned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ppo_validation, "judge_difference", lambda _: {"a prompt": 1.0})
    monkeypatch.setattr(ppo_validation, "goodhart_gap", lambda *_: Interval(0.2, 0.15, 0.3))
    found, again = validation(gap_limit=0.1), validation(gap_limit=0.1)
    found.first = {"a prompt": 0.5}
    found._gap([])
    assert caplog.text.count("over-optimisation") == 1
    again.load_state_dict(found.state_dict())
    assert again.first == {"a prompt": 0.5}
    again._gap([])
    assert caplog.text.count("over-optimisation") == 1
