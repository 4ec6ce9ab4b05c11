"""The arena of a run when its judge fails or changes, or its validations have other prompts; the files of real runs."""

import json
import logging
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_modules.callbacks.run_arena import RunArena, judge_of
from prl.data.tokens import EncodingCounts, Truncation
from prl.evaluation.policy.validation_log import ValidationLog
from prl.judge import StoredJudge
from prl.judge.adaptive import AdaptiveOrder
from prl.judge.base import Comparison
from prl.rewards.base import uncounted
from tests.helpers.tiny import LengthJudge


class DescribedJudge(LengthJudge):
    """Likes length, says what it is, and counts what it reads."""

    def __init__(self, name: str = "length", scale: float = 0.5) -> None:
        super().__init__(scale)
        self.name, self.counts = name, EncodingCounts()

    def describe(self) -> dict[str, Any]:
        return {"kind": "planted", "name": self.name}

    def counters(self) -> list[Any]:
        return [self.counts]

    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        for _ in comparisons:
            self.counts.add(Truncation.PROMPT)
        return super().margins(comparisons)


class Run:
    """As much of a run as the callback looks at."""

    def __init__(self, folder: Path, judge: Any, batch: int = 0) -> None:
        judging = SimpleNamespace(heldout=None, reward=judge, answer=lambda text: text, at_work=lambda _: nullcontext())
        self.module: Any = SimpleNamespace(judging=judging, validation=SimpleNamespace(batch=batch), tensorboard=None)
        state = SimpleNamespace(fn="fit")
        self.trainer: Any = SimpleNamespace(
            default_root_dir=str(folder), is_global_zero=True, sanity_checking=False, fast_dev_run=False, state=state
        )
        self.folder, self.callback = folder, RunArena(comparisons=6)
        self.callback.on_train_start(self.trainer, self.module)

    def validate(self, batch: int, question: str = "question") -> None:
        prompts = [[{"role": "user", "content": f"{question} {n}"}] for n in range(5)]
        rows = [{"row": n, "prompt": each, "response": "x" * (batch + n % 2)} for n, each in enumerate(prompts)]
        ValidationLog(self.folder).add(batch, {}, rows)
        self.module.validation.batch = batch
        self.callback.on_validation_end(self.trainer, self.module)

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "arena" / "arena.json").read_text())


def test_a_judge_that_fails_leaves_the_training_alone(tmp_path: Path, caplog) -> None:
    judge = DescribedJudge(scale=math.nan)
    run = Run(tmp_path, judge)
    with caplog.at_level(logging.WARNING):
        run.validate(1)
        run.validate(2)
    assert "every comparison failed" in caplog.text
    assert not (tmp_path / "arena" / "arena.json").exists()
    judge.scale = 1.0
    run.validate(3)
    assert (run.report["failed"], run.report["comparisons"]) == (5, 6)


def test_what_the_callback_reads_is_not_counted(tmp_path: Path) -> None:
    judge = DescribedJudge()
    judge.counts.add(Truncation.RESPONSES)
    run = Run(tmp_path, judge)
    run.validate(1)
    run.validate(2)
    assert run.report["comparisons"] == 5
    assert judge.counts == EncodingCounts(1, 1, judge.counts.by_truncation)
    assert judge.counts.by_truncation.total() == 1
    stored = StoredJudge(judge, str(tmp_path / "store"))
    with uncounted(stored):
        stored.compare([[{"role": "user", "content": "q"}]], ["a"], ["bb"])
    assert (stored.store.lookups.asked, judge.counts.seen) == (0, 1)


def test_policies_of_other_prompts_are_left_out_with_their_comparisons(tmp_path: Path, caplog) -> None:
    run = Run(tmp_path, DescribedJudge())
    for batch in (1, 2):
        run.validate(batch)
    for batch in (3, 4, 5):
        run.validate(batch, "another question")
    assert "the validation of batch 2 had other prompts" in caplog.text
    assert {player["name"] for player in run.report["players"]} == {"batch=3", "batch=4", "batch=5"}
    assert run.report["comparisons"] == 5 + 6
    run.validate(6)  # back to the first prompts
    assert [player["name"] for player in run.report["players"]] == ["batch=6", "batch=2", "batch=1"]


def test_another_judge_is_refused_before_the_training(tmp_path: Path) -> None:
    run = Run(tmp_path, DescribedJudge())
    for batch in (1, 2, 3):
        run.validate(batch)
    assert Run(tmp_path, DescribedJudge(), batch=3).report == run.report
    with pytest.raises(ValueError, match=r"has comparisons of another judge \(other name\).* move that folder away"):
        Run(tmp_path, DescribedJudge("another"), batch=3)
    Run(tmp_path, DescribedJudge("another"), batch=1).validate(2)  # behind which nothing is left of the first judge
    with pytest.raises(ValueError, match="LengthJudge does not say what decides its margins"):
        Run(tmp_path / "new", LengthJudge())


def test_the_outermost_judge_compares() -> None:
    inner = DescribedJudge()
    outer = AdaptiveOrder(inner, threshold=1.0)
    judging = SimpleNamespace(heldout=None, reward=torch.nn.Sequential(torch.nn.Identity(), outer))
    assert judge_of(SimpleNamespace(judging=judging)) is outer
    judging.heldout = inner
    assert judge_of(SimpleNamespace(judging=judging)) is inner
