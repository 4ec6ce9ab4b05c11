"""Validation of a policy: the over-optimisation alarm, patience, and the order of rows."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from lightning_modules.policy_base import PolicyTrainingModule
from prl.config import Validation
from prl.evaluation.bootstrap import Interval
from prl.rl import validation as module
from prl.rl.validation import PolicyValidation
from prl.types import PromptBatch, Scores
from tests.helpers.records import answered


def validation(**settings: Any) -> PolicyValidation:
    return PolicyValidation(Validation(**settings), lambda: 5)


@pytest.mark.parametrize(("gap", "alarm"), [(Interval(0.2, 0.05, 0.3), 0.0), (Interval(0.2, 0.11, 0.3), 1.0)])
def test_the_alarm_needs_all_of_the_interval(gap: Interval, alarm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "judge_difference", lambda _: {})
    monkeypatch.setattr(module, "goodhart_gap", lambda *_: gap)
    monkeypatch.setattr(module, "policy_report", lambda _: {})
    found = validation(gap_limit=0.1)
    found.first = {"a prompt": 0.0}
    assert found.report([], has_heldout=True, in_training=False)["goodhart_alarm"] == alarm


@pytest.mark.parametrize(("in_training", "waited"), [(True, 1), (False, 0)])
def test_only_validations_of_training_are_waited_for(
    in_training: bool, waited: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "policy_report", lambda _: {"win_rate": 0.5, "win_rate_lo": 0.4})
    found = validation(patience=1)
    found.patience.observe(1, {"win_rate": 0.6, "win_rate_lo": 0.5})
    assert found.report([], has_heldout=False, in_training=in_training)["since_best"] == waited
    assert (found.patience.stop_reason() is not None) is bool(waited)


@pytest.mark.parametrize("over", [False, True])
def test_a_run_ends_when_it_has_waited_long_enough(over: bool) -> None:
    stage = Mock(trainer=SimpleNamespace(should_stop=False))
    stage.validation.patience.stop_reason.return_value = "no validation was better" if over else None
    PolicyTrainingModule.end_if_over(stage)
    assert stage.trainer.should_stop is over


def test_a_row_without_an_anchor_is_compared_with_the_reference_and_the_others_are_not() -> None:
    stage = Mock()
    stage.actors.reference_responses.return_value = ["from the reference", "from it too"]
    tokens = torch.ones(2, 1, dtype=torch.long)
    turns = [({"role": "user", "content": text},) for text in "pq"]
    batch = PromptBatch(tokens, tokens.bool(), turns, [("own",), ()])
    stage.generate.return_value = answered(batch, ["x", "y"])
    rollout, _ = PolicyTrainingModule._sample(stage, batch, 0)
    assert rollout.batch.anchors == [("own",), ("from it too",)]
    assert stage.judge_responses.call_args.args == (rollout,)
    assert stage.generate.call_args.kwargs == {"training": False}  # a sampler that helps in training does not here


@pytest.mark.parametrize("training", [True, False])
def test_what_a_reward_says_of_tokens_is_asked_for_in_training_alone(training: bool) -> None:
    stage = MagicMock()
    stage.trainer.training = training
    found = PolicyTrainingModule.judge_responses(stage, "rollout")  # type: ignore[arg-type]
    assert found is stage.judging.score.return_value
    stage.judging.score.assert_called_once_with("rollout", per_token=training)


def test_figures_are_of_all_rows_in_one_order_whichever_process_had_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gathered", lambda own: [own, [{"row": 0}, {"row": 2}]])
    found = validation()
    found._rows = [{"row": 3}, {"row": 1}]
    assert [row["row"] for row in found.gather()] == [0, 1, 2, 3]
    assert found._rows == []


def test_a_resumed_run_knows_its_first_difference_and_that_it_has_warned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "judge_difference", lambda _: {"a prompt": 1.0})
    monkeypatch.setattr(module, "goodhart_gap", lambda *_: Interval(0.2, 0.15, 0.3))
    found, again = validation(gap_limit=0.1), validation(gap_limit=0.1)
    found.first = {"a prompt": 0.5}
    found._gap([])
    assert caplog.text.count("over-optimisation") == 1
    again.load_state_dict(found.state_dict())
    assert again.first == {"a prompt": 0.5}
    again._gap([])
    assert caplog.text.count("over-optimisation") == 1


def test_rewards_that_are_compared_with_nothing_are_averaged_over_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reward that failed is in no mean."""
    found = validation()
    found.start()
    for values in ([1.0, 0.0], [0.5, float("nan")]):
        found.add_components(Scores(torch.zeros(2), components={"return": torch.tensor(values)}))
    monkeypatch.setattr(module, "gathered", lambda own: [own, {"return": [0.25]}])
    assert found.component_means() == {"return": 1.75 / 4}
    found.start()
    monkeypatch.setattr(module, "gathered", lambda own: [own])
    assert found.component_means() == {}


def test_a_reward_that_compares_nothing_needs_no_anchors_and_is_logged_by_its_components() -> None:
    stage = Mock()
    stage.judging.reward.compares = False
    tokens = torch.ones(1, 1, dtype=torch.long)
    batch = PromptBatch(tokens, tokens.bool(), [({"role": "user", "content": "p"},)], [()])
    stage.generate.return_value = answered(batch, ["x"])
    rollout, _ = PolicyTrainingModule._sample(stage, batch, 0)
    assert rollout.batch.anchors == [()]
    assert not stage.actors.reference_responses.called
    scores = Scores(torch.zeros(1))
    stage._sample.return_value = rollout, scores
    PolicyTrainingModule.validation_step(stage, batch, 0)
    assert stage.validation.add_components.call_args.args == (scores,)
    stage.validation.gather.return_value, stage.validation.component_means.return_value = [], {"return": 0.5}
    stage.trainer.sanity_checking = False
    PolicyTrainingModule.on_validation_epoch_end(stage)
    assert stage.log_dict.call_args.args == ({"val/return": 0.5},)
    assert not stage.validation.report.called
