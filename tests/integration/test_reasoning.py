"""A judge that learns to reason, through the command line: cut off and resumed to the bit, exported, measured."""

import json
from pathlib import Path

import pytest

from prl.judge import GenerativeJudge
from prl.judge.passport import read_passport
from tests.integration.runs import (
    CONFIGS,
    Home,
    Interrupt,
    InterruptedRun,
    Numbers,
    callback,
    differences,
    find_callback,
    state_of,
)

MODEL = "--model.init_args."
OVERLAY = ("--config", str(CONFIGS / "methods" / "reasoning_judge.yaml"))
SHORT = (f"{MODEL}reasoning.max_tokens", "3", f"{MODEL}thoughts", "2", f"{MODEL}passport_pairs", "5")


def with_critiques(home: Home, folder: Path) -> tuple[str, str]:
    """Write the training pairs with a critique in every other row."""
    rows = [json.loads(line) for line in home.data("pairs.train").read_text().splitlines()]
    rows = [{**row, "critique": "ab" if number % 2 else None} for number, row in enumerate(rows)]
    path = folder / "critiques.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "--data.init_args.train.path", str(path)


def test_a_judge_learns_to_reason_and_goes_on_exactly_after_it_was_cut_off(home: Home, tmp_path: Path) -> None:
    settings = (*OVERLAY, *SHORT, *with_critiques(home, tmp_path), "--trainer.max_steps", "4")
    cli = home.run("generative_reward", tmp_path / "whole", callback(Numbers), *settings)
    numbers = find_callback(cli.trainer, Numbers)
    for each in numbers.training:
        assert 1 <= each["perf/thought_tokens"] <= 3
        assert 0 <= each["train/unfinished_thoughts"] <= 1
        assert each["train/thought_entropy"] > 0
    assert 0 <= numbers.validation[-1]["val/accuracy"] <= 1
    with pytest.raises(InterruptedRun):
        home.run("generative_reward", tmp_path / "cut", callback(Interrupt, batch=3), *settings)
    home.run("generative_reward", tmp_path / "cut", "--ckpt_path", "last", *settings)
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []
    folder = tmp_path / "whole" / "model"
    judge = GenerativeJudge.from_pretrained(str(folder))
    assert (judge.reasoning.max_tokens, judge.reasoning.samples) == (3, 2)
    passport = read_passport(folder)
    assert passport["judge"]["reasoning"]["closing"] == "\n"
    assert list(passport["report"]["reasons"]["samples"]) == ["1", "2"]
