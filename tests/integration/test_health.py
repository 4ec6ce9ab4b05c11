"""Planted faults: the message names the cause, the weights stay finite and the checkpoints good."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import Tensor

from prl.checkpoints.position import batches_done
from prl.judge.base import Comparison
from prl.rl.health import HealthError
from prl.types import Rollout
from tests.helpers.tiny import LengthJudge
from tests.integration.runs import Home, callback, last_checkpoint

MODEL = "--model.init_args."
QUIET = ("--trainer.limit_val_batches", "0", f"{MODEL}critic.warmup", "0")


def name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


class NaNLogits(Callback):
    """From the third iteration on, the policy's logits for one token of the vocabulary are NaN."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batches_done(trainer) == 2:
            pl_module.policy.lm_head.register_forward_hook(self.spoil)

    @staticmethod
    def spoil(module: Any, inputs: Any, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([5]), math.nan)


class NaNGradient(Callback):
    """One gradient of the third iteration is NaN."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if batches_done(trainer) == 2:
            next(pl_module.policy.parameters()).grad[0, 0] = math.nan


class OnceInfiniteJudge(LengthJudge):
    """Its second reading has an infinite margin."""

    reading = 0

    def margins(self, comparisons: list[Comparison]) -> Tensor:
        found = super().margins(comparisons)
        type(self).reading += 1
        if self.reading == 2:
            found[0] = math.inf
        return found


class SickRun(Callback):
    """A reference that finds every token more likely than the policy does, and updates that find them far likelier."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        actors = pl_module.actors
        reference = actors.reference_logprobs
        actors.reference_logprobs = lambda rollout: reference(rollout) + rollout.response_mask.float()
        for name in ("evaluate", "evaluate_policy"):
            setattr(actors, name, self.likelier_in_updates(getattr(actors, name)))

    def likelier_in_updates(self, evaluate: Callable[[Rollout], Any]) -> Callable[[Rollout], Any]:
        def found(rollout: Rollout) -> Any:
            logprobs, *others = evaluate(rollout)
            return logprobs + 4.0 * (rollout.response_mask * torch.is_grad_enabled()), *others

        return found


def assert_sound(checkpoint: dict[str, Any]) -> None:
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    moments = [value for state in checkpoint["optimizer_states"][0]["state"].values() for value in state.values()]
    assert moments
    assert all(torch.as_tensor(value).isfinite().all() for value in moments)


def test_nan_logits_stop_the_run_before_they_reach_the_weights(home: Home, tmp_path: Path) -> None:
    with pytest.raises(HealthError) as raised:
        home.run("pairwise_ppo", tmp_path, *QUIET, f"{MODEL}iterations", "9", callback(NaNLogits))
    message = str(raised.value)
    assert "batch 5: the policy gives log-probabilities that are not finite" in message
    assert "3 updates had to be left out (health.max_skipped)" in message
    assert sorted(path.name for path in (tmp_path / "health").iterdir()) == [f"batch=00000{n}.pt" for n in (3, 4, 5)]
    saved = torch.load(tmp_path / "health" / "batch=000003.pt", weights_only=True)
    assert saved["kind"] == "old_logprobs"
    assert saved["old_logprobs"].isnan().any()
    assert len(saved["responses"]) == len(saved["prompts"]) == len(saved["response_ids"]) == 8
    checkpoint = last_checkpoint(tmp_path)
    assert_sound(checkpoint)
    state = checkpoint["run_state"]["health"]
    assert state["skipped"] == 2  # that of the fourth iteration; the fifth was not completed


def test_a_run_goes_on_after_an_infinite_reward_and_a_bad_gradient(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    OnceInfiniteJudge.reading = 0
    judge = f'{MODEL}reward={{"class_path": "{name(OnceInfiniteJudge)}"}}'
    with caplog.at_level(logging.WARNING):
        home.run("pairwise_ppo", tmp_path, *QUIET, judge, callback(NaNGradient))
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert "batch 2: the judge gave log-odds that are not finite" in told[0]
    assert "Not finite: margins (1)" in told[0]
    assert "batch 3: a loss, ratio or gradient of the update is not finite" in told[1]
    assert "grad_norm (nan)" in told[1]
    assert len(told) == 2
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint["run_state"]["health"]["skipped"] == 2
    assert_sound(checkpoint)
    assert checkpoint["lr_schedulers"][0]["last_epoch"] == 4  # iterations left out count
    assert math.isfinite(checkpoint["run_state"]["kl"]["coef"])
    saved = torch.load(tmp_path / "health" / "batch=000002.pt", weights_only=True)
    assert saved["margins"].isinf().sum() == 1


def test_findings_that_can_be_trained_on_are_told_once_each(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prl.rollouts.generate.decode", lambda tokenizer, ids, *_: [" "] * len(ids))
    judge = f'{MODEL}reward={{"class_path": "tests.helpers.tiny.ConstantJudge"}}'
    length = [f"{MODEL}shaping", "[]", f"{MODEL}iterations", "2"]
    with caplog.at_level(logging.WARNING):
        home.run("pairwise_ppo", tmp_path, *QUIET, judge, *length, callback(SickRun))
    told = [record.message for record in caplog.records if record.name.endswith("health_monitor")]
    for words in (
        "times as likely within one update",
        "one reward",
        "100% of the responses are empty",
        "no KL is negative",
    ):
        assert len([message for message in told if words in message]) == 1, (words, told)
    counts = last_checkpoint(tmp_path)["run_state"]["health"]["counts"]
    assert counts["equal_rewards"] == counts["empty_responses"] == counts["exploding_ratio"] == 2
    assert_sound(last_checkpoint(tmp_path))


def test_a_stage_that_diverges_ends_with_its_last_good_checkpoint(home: Home, tmp_path: Path) -> None:
    settings = ("--checkpoint.every_n_batches", "1", f"{MODEL}optimization.learning_rate", "1e30")
    with pytest.raises(HealthError, match=r"batch \d: the loss or a gradient is not finite .*lower optim"):
        home.run("supervised", tmp_path, "--trainer.limit_val_batches", "0", *settings)
    assert_sound(last_checkpoint(tmp_path))
    assert not (tmp_path / "model").exists()
