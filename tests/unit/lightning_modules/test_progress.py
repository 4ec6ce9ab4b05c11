"""What a run says when it begins, and what of Lightning's words is left out."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.utilities import seed
from lightning.pytorch.utilities import rank_zero

from lightning_modules.callbacks import progress
from prl.cli.app import _quiet_lightning

SCORES = (("a", None, None), ("b", 0.25, "val/loss"))


def trainer(**changes: Any) -> Any:
    there = {
        "strategy": SimpleNamespace(root_device=SimpleNamespace(type="cpu")),
        "world_size": 1,
        "precision": "bf16-mixed",
        "datamodule": SimpleNamespace(rows={"train": range(40), "validation": range(8)}),
        "default_root_dir": "runs/mine",
        "fast_dev_run": False,
        "loggers": [object()],
    }
    return SimpleNamespace(**{**there, **changes})


def test_a_run_begins_with_what_runs_on_what_data_and_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "batches_done", lambda _: 0)
    assert progress.beginning(trainer(), "PairwisePPO", 20).splitlines() == [
        "PairwisePPO: batches 1 to 20, on cpu, precision bf16-mixed",
        "data: 40 rows for training, 8 for validation",
        "run folder: runs/mine; curves: tensorboard --logdir runs/mine",
    ]
    monkeypatch.setattr(progress, "batches_done", lambda _: 7)
    told = progress.beginning(trainer(world_size=2, datamodule=None, fast_dev_run=True), "PairwisePPO", None)
    assert told == "PairwisePPO: from batch 8, on 2 processes, each on cpu, precision bf16-mixed"


def test_iterations_that_another_limit_cut_off_are_told_by_that_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "batches_done", lambda _: 2)
    run = trainer(checkpoint_callbacks=[], global_step=8, max_steps=8)
    told = progress.ending(run, 45, Path("m")).splitlines()[0]
    assert told.startswith("nothing to do: 2 of 45 iterations are done; raise trainer.max_steps, which is 8 and counts")


def test_a_callback_that_monitors_nothing_has_no_best_checkpoint() -> None:
    kept = [SimpleNamespace(best_model_path=f"{n}.ckpt", best_model_score=s, monitor=m) for n, s, m in SCORES]
    run = trainer(checkpoint_callbacks=kept, global_step=4, max_steps=4)
    assert progress.ending(run, None, Path("m")).splitlines()[1:] == [
        "model: m",
        "best checkpoint: b.ckpt (val/loss 0.25)",
    ]


def test_without_a_terminal_a_line_says_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    done, clock = iter((4, 4, 5, 6, 7, 8)), iter((100.0, 106.0, 112.0))
    monkeypatch.setattr(progress, "batches_done", lambda _: next(done))
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    bar = progress.PhaseProgressBar(lines=4)
    monkeypatch.setattr(bar, "get_metrics", lambda *_: {"train/loss": 0.5})
    run = trainer(max_steps=4, accumulate_grad_batches=2, loggers=[])
    bar.on_train_start(run, SimpleNamespace())  # type: ignore[arg-type]
    for _ in range(4):
        bar.on_train_batch_end(run, SimpleNamespace(), None, None, 0)  # type: ignore[arg-type]
    # Batches, of which a step takes two; 3 s for each since the fourth.
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert lines == [f"SimpleNamespace {n}/8  00:0{s} left  train/loss 0.5" for n, s in ((6, 6), (8, 0))]


def test_of_lightnings_words_the_noise_is_left_out_and_the_rest_is_not() -> None:
    _quiet_lightning()
    left_out = {
        rank_zero: ("GPU available: False, used: False", "TPU available: False, using: 0 TPU cores"),
        seed: ("Seed set to 0",),
    }
    for module, texts in left_out.items():
        of = logging.getLogger(module.__name__)
        record = lambda text: logging.makeLogRecord({"msg": text})  # noqa: E731
        assert not any(of.filter(record(text)) for text in texts)
        assert of.filter(record("GPU available but not used."))
