"""What a run says when it begins, and what of Lightning's words is left out."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.utilities import seed
from lightning.pytorch.utilities import rank_zero

from lightning_modules.callbacks import progress
from prl.cli.app import _quiet_lightning


def trainer(**changes: Any) -> Any:
    there = {
        "strategy": SimpleNamespace(root_device=SimpleNamespace(type="cpu")),
        "world_size": 1,
        "precision": "bf16-mixed",
        "datamodule": SimpleNamespace(rows={"train": range(40), "validation": range(8)}),
        "default_root_dir": "runs/mine",
        "fast_dev_run": False,
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
