"""Validations of pairwise PPO: files, the held-out judge, the gap, and what a resume makes of them."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.checkpoints.random_states import forked
from prl.evaluation.policy.report import policy_report
from prl.evaluation.policy.validation_log import ValidationLog
from prl.types import Conversation
from prl.verdict import Verdict
from tests.helpers.tiny import ConstantJudge, LengthJudge, PlantedJudge
from tests.integration.runs import (
    Home,
    Interrupt,
    InterruptedRun,
    callback,
    differences,
    last_checkpoint,
    state_of,
)

MODEL = "--model.init_args."
FIELDS = {"row", "prompt", "response", "anchor", "margin", "p_win", "p_response_first", "p_anchor_first"}


class ShorterJudge(PlantedJudge):
    """The shorter response is better."""

    def rule(self, first: str, second: str) -> float:
        return float(len(second) - len(first))


class ChangingJudge(ConstantJudge):
    """Prefers every anchor in the first validation, of two batches, and every response from then on."""

    batches = 0

    def compare(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        margin = torch.ones(len(a)) * (1.0 if self.batches >= 2 else -1.0)
        type(self).batches += 1
        return Verdict(margin, -margin)


def judges(training: type, heldout: type) -> list[str]:
    """Return the two judges of a run, by class."""
    names = {"reward": training, "heldout_judge": heldout}
    given = {name: {"class_path": f"{kind.__module__}.{kind.__qualname__}"} for name, kind in names.items()}
    return [word for name, value in given.items() for word in (f"{MODEL}{name}", json.dumps(value))]


def lines(run: Path) -> list[dict[str, Any]]:
    return ValidationLog(run).read()


@pytest.fixture(scope="module")
def run(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven iterations, validated before the first, after every third and at the end, by judges that disagree."""
    folder = tmp_path_factory.mktemp("validated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["prl"])
        home.run("pairwise_ppo", folder, *settings())
    return folder


def settings() -> list[str]:
    # The quickstart's judge stands in the config; a class without its arguments takes its place.
    return [
        *judges(LengthJudge, ShorterJudge),
        *(f"{MODEL}iterations", "7", "--trainer.num_sanity_val_steps", "-1"),
    ]


def test_every_validation_leaves_its_figures_and_all_its_comparisons(run: Path, home: Home) -> None:
    prompts = [json.loads(each) for each in home.data("prompts.validation").read_text().splitlines()]
    assert [line["batch"] for line in lines(run)] == [0, 3, 6, 7]
    for line in lines(run):
        rows = ValidationLog(run).rows(line["batch"])
        assert sorted((row["prompt"][0]["content"], row["anchor"]) for row in rows) == sorted(
            (each["prompt"], each["anchor"]) for each in prompts
        )
        assert [row["row"] for row in rows] == list(range(len(prompts)))
        assert rows[0].keys() == FIELDS | {
            f"heldout_{name}" for name in FIELDS if name.startswith(("p_", "margin"))
        } | {
            "length",
            "truncated",
            "kl",
        }
        again = policy_report(rows)
        assert {name: line[name] for name in again} == pytest.approx(again)
        for row in rows:
            assert row["margin"] == -row["heldout_margin"] == len(row["response"].strip()) - len(row["anchor"])
            wins = 1 / (1 + math.exp(-row["margin"]))  # this judge has no favourite place
            found = [row[name] for name in ("p_win", "p_response_first", "p_anchor_first")]
            assert found == pytest.approx([wins] * 3, abs=1e-6)
    assert lines(run)[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_each_batch_of_a_validation_has_its_own_draws_and_the_same_every_time(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def noted(seed: int) -> Any:
        seeds.append(seed)
        return forked(seed)

    monkeypatch.setattr("lightning_modules.policy_base.forked", noted)
    home.run("pairwise_ppo", tmp_path, *settings(), f"{MODEL}iterations", "3")
    assert seeds == [0, 1] * 2


def test_opposed_judges_have_opposed_win_rates_and_the_length_controlled_ones_meet(run: Path) -> None:
    for line in lines(run):
        assert line["win_rate"] == pytest.approx(1 - line["win_rate_heldout"])
        assert line["win_rate_lc"] == pytest.approx(1 - line["win_rate_heldout_lc"], abs=1e-3)
    first, last = lines(run)[0], lines(run)[-1]
    assert first["goodhart_gap"] == 0
    assert last["goodhart_gap"] == pytest.approx(2 * (last["win_rate"] - first["win_rate"]))


def test_the_gap_of_a_resumed_run_still_starts_at_the_first_validation(run: Path, home: Home, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRun):
        home.run("pairwise_ppo", tmp_path, *settings(), callback(Interrupt, batch=6, moment="validation"))
    assert last_checkpoint(tmp_path)["run_state"]["validation"]["first"]
    assert [line["batch"] for line in lines(tmp_path)] == [0, 3]
    ValidationLog(tmp_path).add(9, {"win_rate": 0.0}, [])  # of a future that this run will not have
    Path(tmp_path, "checkpoints", "last.ckpt").replace(tmp_path / "checkpoints" / "moved.ckpt")
    home.run("pairwise_ppo", tmp_path, *settings(), "--ckpt_path", str(tmp_path / "checkpoints" / "moved.ckpt"))
    expected = {line["batch"]: line for line in lines(run)}
    for line in lines(tmp_path):
        assert line == expected[line["batch"]]
    assert lines(tmp_path)[-1]["batch"] == 7


def test_the_alarm_is_logged_and_told_once(home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ChangingJudge.batches = 0
    only_validated = [
        "--trainer.num_sanity_val_steps",
        "-1",
        f"{MODEL}iterations",
        "4",
        "--trainer.val_check_interval",
        "2",
    ]
    with caplog.at_level(logging.WARNING):
        home.run("pairwise_ppo", tmp_path, *judges(ChangingJudge, ConstantJudge), *only_validated)
    assert [line["goodhart_alarm"] for line in lines(tmp_path)] == [0, 1, 1]
    told = [record.message for record in caplog.records if "over-optimisation" in record.message]
    assert len(told) == 1
    assert "rose by 1.00" in told[0]
    assert "raise kl.coef" in told[0]


@pytest.mark.parametrize(
    ("given", "patience", "batches"),
    [
        (judges(ChangingJudge, ConstantJudge), 1, [0, 2]),  # the training judge alone saw progress
        (judges(ConstantJudge, ConstantJudge), 1, [0, 2, 4, 6]),  # neither did: the win rate may only pause
        (judges(ConstantJudge, ConstantJudge)[:2], 2, [0, 2, 4]),  # nobody else to ask
        (judges(ChangingJudge, ConstantJudge), None, [0, 2, 4, 6]),
    ],
)
def test_a_run_ends_when_its_best_is_behind_it(
    given: list[str], patience: int | None, batches: list[int], home: Home, tmp_path: Path, caplog: Any
) -> None:
    ChangingJudge.batches = 0
    limits = [f"{MODEL}iterations", "6", "--trainer.val_check_interval", "2", "--trainer.num_sanity_val_steps", "-1"]
    if patience is not None:
        limits += [f"{MODEL}validation.patience", str(patience)]
    with caplog.at_level(logging.WARNING):
        home.run("pairwise_ppo", tmp_path, *given, *limits)
    assert [line["batch"] for line in lines(tmp_path)] == batches
    assert [line["since_best"] for line in lines(tmp_path)] == list(range(len(batches)))
    assert last_checkpoint(tmp_path)["run_state"]["validation"]["batch"] == batches[-1]
    told = [record.message for record in caplog.records if "the run ends early" in record.message]
    assert len(told) == (batches[-1] < 6)


def test_a_run_that_ended_early_stays_ended(home: Home, tmp_path: Path) -> None:
    ChangingJudge.batches = 0
    limits = [f"{MODEL}iterations", "6", "--trainer.val_check_interval", "2", "--trainer.num_sanity_val_steps", "-1"]
    limits += [*judges(ChangingJudge, ConstantJudge), f"{MODEL}validation.patience", "1"]
    home.run("pairwise_ppo", tmp_path, *limits)
    home.run("pairwise_ppo", tmp_path, *limits, "--ckpt_path", "last")
    assert [line["batch"] for line in lines(tmp_path)] == [0, 2]
    home.run("pairwise_ppo", tmp_path, *limits, f"{MODEL}validation.patience", "9", "--ckpt_path", "last")
    assert lines(tmp_path)[-1]["batch"] == 6


def test_a_validation_that_a_resumed_run_repeats_counts_once(home: Home, tmp_path: Path) -> None:
    """Lightning repeats the sanity check of some resumed runs; cut at the fifth and at the seventh batch."""
    whole = [*judges(ConstantJudge, ConstantJudge), f"{MODEL}iterations", "8", "--trainer.val_check_interval", "2"]
    whole += ["--trainer.num_sanity_val_steps", "-1", "--checkpoint.every_n_batches", "2"]
    home.run("pairwise_ppo", tmp_path / "whole", *whole)
    resume: list[str] = []
    for batch in (5, 7):
        with pytest.raises(InterruptedRun):
            home.run("pairwise_ppo", tmp_path / "cut", *whole, *resume, callback(Interrupt, batch=batch))
        resume = ["--ckpt_path", "last"]
    home.run("pairwise_ppo", tmp_path / "cut", *whole, *resume)
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_validating_a_checkpoint_counts_for_no_patience(home: Home, tmp_path: Path) -> None:
    given = [*judges(ConstantJudge, ConstantJudge), "--trainer.val_check_interval", "2", f"{MODEL}iterations", "2"]
    given += ["--trainer.num_sanity_val_steps", "-1", "--checkpoint.every_n_batches", "1"]
    home.run("pairwise_ppo", tmp_path, *given)
    assert [line["since_best"] for line in lines(tmp_path)] == [0, 1]
    between = next(Path(tmp_path, "checkpoints").glob("*1.ckpt"))  # training validated before and after it
    cli = home.run("pairwise_ppo", tmp_path, *given, "--ckpt_path", str(between), verb="validate")
    assert cli.trainer.callback_metrics["val/since_best"] == 0


def test_a_run_says_when_its_best_checkpoint_would_be_gone(home: Home, tmp_path: Path, caplog: Any) -> None:
    limits = [f"{MODEL}iterations", "1", f"{MODEL}validation.patience", "5", "--trainer.val_check_interval", "2"]
    with caplog.at_level(logging.WARNING):
        home.run("pairwise_ppo", tmp_path / "a", *limits, "--checkpoint.keep", "6")  # every two batches, ten back
        assert "checkpoint.keep" not in caplog.text
        home.run("pairwise_ppo", tmp_path / "b", *limits, "--checkpoint.keep", "5")
    assert "set checkpoint.keep to 6, or the best one is gone" in caplog.text


def test_a_heldout_judge_that_is_the_judge_is_refused(home: Home, tmp_path: Path) -> None:
    same = [
        f"{MODEL}heldout_judge",
        "prl.judge.GenerativeJudge",
        f"{MODEL}heldout_judge.init_args.path",
        str(home.judge),
    ]
    with pytest.raises(ValueError, match="heldout_judge is the judge itself"):
        home.run("pairwise_ppo", tmp_path, *same)


def test_a_short_sanity_check_is_no_validation(home: Home, tmp_path: Path) -> None:
    home.run("pairwise_ppo", tmp_path, "--trainer.num_sanity_val_steps", "1", f"{MODEL}iterations", "1")
    assert [line["batch"] for line in lines(tmp_path)] == [1]
