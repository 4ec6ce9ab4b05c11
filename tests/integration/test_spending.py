"""Whole PPO runs whose judge reads the second order of near comparisons, and keeps its verdicts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

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
