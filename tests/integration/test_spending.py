"""Whole PPO runs whose judge reads the second order of near comparisons, and keeps its verdicts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.cli.entry import main
from tests.integration.runs import (
    Home,
    Interrupt,
    InterruptedRun,
    Numbers,
    callback,
    differences,
    find_callback,
    last_checkpoint,
)

MODEL = "--model.init_args."


def reward(home: Home, folder: Path, threshold: float = 1.0) -> tuple[str, str]:
    judge = {"class_path": "prl.judge.GenerativeJudge", "init_args": {"path": str(home.judge)}}
    stored = {"class_path": "prl.judge.StoredJudge", "init_args": {"judge": judge, "folder": str(folder)}}
    settings: dict[str, Any] = {"judge": stored, "threshold": threshold, "offset": 0.2}
    return f"{MODEL}reward", json.dumps({"class_path": "prl.judge.AdaptiveOrder", "init_args": settings})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return last_checkpoint(run)["state_dict"]


def without_nondeterminism(numbers: list[dict[str, float]]) -> list[dict[str, float]]:
    unlike = ("time/", "perf/", "mem/", "tok/s")
    return [{k: v for k, v in each.items() if not k.startswith(unlike)} for each in numbers]


def test_a_run_that_is_repeated_reads_every_verdict_from_the_store(home: Home, tmp_path: Path) -> None:
    arguments = (*reward(home, tmp_path / "verdicts"), f"{MODEL}iterations", "3", callback(Numbers))
    first = find_callback(home.run("pairwise_ppo", tmp_path / "first", *arguments).trainer, Numbers)
    again = find_callback(home.run("pairwise_ppo", tmp_path / "again", *arguments).trainer, Numbers)
    assert differences(weights(tmp_path / "first"), weights(tmp_path / "again")) == []
    assert without_nondeterminism(first.training) == without_nondeterminism(again.training)
    assert first.validation == again.validation != []
    rates = [each["perf/verdict_store_hit_rate"] for each in again.training]
    assert rates == [1.0] * len(rates)
    assert first.training[0]["perf/verdict_store_hit_rate"] < 1
    shares = [each["judge/second_order_share"] for each in first.training]
    assert all(0 < share < 1 for share in shares)
    assert len(list((tmp_path / "verdicts").iterdir())) == 1  # the second run had nothing to add


@pytest.mark.slow
def test_a_run_that_was_cut_off_reads_what_it_has_read(home: Home, tmp_path: Path) -> None:
    home.run("pairwise_ppo", tmp_path / "whole", *reward(home, tmp_path / "of_whole"))
    cut = reward(home, tmp_path / "of_cut")
    with pytest.raises(InterruptedRun):
        home.run("pairwise_ppo", tmp_path / "cut", *cut, callback(Interrupt, batch=3, moment="update"))
    # Another run with the same prompts fills the folder meanwhile, in other batches.
    home.run("pairwise_ppo", tmp_path / "other", *reward(home, tmp_path / "of_cut", 9.0), "--seed_everything", "1")
    home.run("pairwise_ppo", tmp_path / "cut", *cut, "--ckpt_path", "last")
    assert differences(weights(tmp_path / "whole"), weights(tmp_path / "cut")) == []


def test_prl_judge_reads_and_fills_a_folder(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    measured = ["judge", "--judge", str(home.judge), "--pairs", str(home.data("pairs.train")), "--no-probes"]
    stored = [*measured, "--verdict_store", str(tmp_path / "verdicts")]
    reports = []
    for number, share in enumerate(("0.0 %", "100.0 %")):
        file = tmp_path / f"{number}.json"
        main([*stored, "--adaptive-error", "0.3", "--json", str(file)])
        told = capsys.readouterr().out
        assert f"{share} of " in told
        reports.append(json.loads(file.read_text()))
        found = reports[-1]["adaptive_order"]
        assert f"offset {found['offset']:.4f}; both orders for {100 * found['second_order_share']:.0f} %" in told
        # Pairs this few and a judge this random show of no threshold that it will do.
        assert (found["threshold"], found["second_order_share"], found["found_error"]) == (None, 1.0, 0.0)
        assert "threshold inf" in told
    assert reports[0] == reports[1]
    main([*measured, "--json", str(tmp_path / "alone.json")])
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert reports[0].keys() - alone.keys() == {"adaptive_order"}
    assert reports[0]["judge"] == alone["judge"]
    capsys.readouterr()
    for wrong, told in (
        ([*stored, "--write-passport"], "--write-passport"),
        ([*measured, "--adaptive-error", "2"], "2 is no error between 0 and 1"),
        (
            ["judge", "--judge", "j", "--calibrate", "p", "--output", "o", "--verdict_store", "v"],
            "--verdict_store does not go",
        ),
        (
            ["judge", "--judge", "j", "--prompts", "p", "--responses", "r", "--anchors", "a", "--adaptive-error", ".1"],
            "--adaptive-error goes with --pairs",
        ),
    ):
        with pytest.raises(SystemExit) as ending:
            main(wrong)
        assert ending.value.code == 2
        assert told in capsys.readouterr().err
