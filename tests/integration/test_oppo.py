"""OPPO through the command line: data, a run, its curves and model, a stop and a resume, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prl.cli.app import run_stage
from prl.cli.commands import COMMANDS
from prl.control import PointMass, load_policy, read_data, returns
from prl.data import DataError
from prl.system.outputs import OutputError
from tests.integration.runs import CONFIGS, Interrupt, InterruptedRun, callback, differences, state_of
from tests.integration.test_tensorboard import events, scalars

CONFIG = CONFIGS / "control" / "oppo.yaml"
MODEL = "--model.init_args."
LOSSES = {"loss", "reconstruction", "preference", "norm", "preference_accuracy"}
TAGS = {f"{split}/{name}" for split in ("train", "val") for name in LOSSES}
TAGS |= {"train/optimum_norm", "val/return", "val/normalized_return"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    COMMANDS["control"](["--out", str(folder), "--trajectories", "16", "--pairs", "40", "--segment", "8"])
    return folder


def arguments(data: Path, run: Path, *overrides: str, verb: str = "fit") -> list[str]:
    args = [verb, "--config", str(CONFIG), "--run_dir", str(run)]
    for split in ("train", "validation"):
        args += [f"--data.init_args.{split}.path", str(data / f"{split}.npz")]
    args += ["--data.init_args.batch_size", "8", "--data.init_args.validation_batch_size", "5"]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"]
    args += ["--trainer.max_steps", "7", "--trainer.val_check_interval", "3", "--checkpoint.every_n_batches", "2"]
    args += [f"{MODEL}networks.width", "8", f"{MODEL}networks.context", "6", f"{MODEL}networks.layers", "1"]
    return [*args, f"{MODEL}episodes", "4", f"{MODEL}optimization.warmup", "2", *overrides]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    run_stage(arguments(data, run))
    return run


def test_curves(whole: Path) -> None:
    found = scalars(events(whole))
    assert {tag for tag in found if tag.startswith(("train/", "val/"))} == TAGS
    page = (CONFIGS.parent / "docs" / "methods" / "control.md").read_text()
    assert set(re.findall(r"`((?:train|val)/\w+)`", page)) == TAGS
    assert len(found["train/loss"]) == 7
    assert len(found["val/normalized_return"]) == 2
    for split in ("train", "val"):
        loss, reconstruction, preference, norm = (
            np.array([each for _, each in found[f"{split}/{name}"]])
            for name in ("loss", "reconstruction", "preference", "norm")
        )
        # z* learns from the preference loss itself, encoder and decoder from a tenth of it.
        np.testing.assert_allclose(loss, reconstruction + 1.1 * preference + 0.1 * norm, rtol=1e-4)


def test_the_model_acts_as_validation_measured(whole: Path, data: Path) -> None:
    policy = load_policy(whole / "model")
    mean, deviation = read_data(data / "train.npz").statistics()
    np.testing.assert_allclose(policy.state_mean, mean)
    np.testing.assert_allclose(policy.state_scale, deviation + 1e-6)
    cli = run_stage(arguments(data, whole, "--ckpt_path", "last", verb="validate"))
    logged = cli.trainer.callback_metrics
    assert float(logged["val/return"]) == pytest.approx(float(returns(PointMass(), policy.act, 4, 0).mean()), abs=1e-3)
    assert "Policy of a control task" in (whole / "model" / "README.md").read_text()


def test_a_stopped_run_ends_like_a_whole_one(whole: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRun):
        run_stage(arguments(data, tmp_path, callback(Interrupt, batch=5)))
    run_stage(arguments(data, tmp_path, "--ckpt_path", "last"))
    assert differences(state_of(tmp_path), state_of(whole)) == []
    model, expected = (run / "model" / "model.safetensors" for run in (tmp_path, whole))
    assert model.read_bytes() == expected.read_bytes()


def test_each_row_is_predicted(whole: Path, data: Path) -> None:
    run_stage(arguments(data, whole, "--ckpt_path", "last", verb="predict"))
    rows = [json.loads(line) for line in (whole / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == len(read_data(data / "validation.npz").chosen)
    assert all(row.keys() == {"margin"} for row in rows)


def refused(data: Path, run: Path, *overrides: str, error: Any = ValueError, words: str) -> None:
    with pytest.raises(error, match=words):
        run_stage(arguments(data, run, *overrides))
    assert not (run / "checkpoints").exists()


def test_settings_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    null = (f"{MODEL}environment", "null")
    words = "validation.npz has state_size 4, model.init_args.networks.state_size is 5; set it so"
    refused(data, tmp_path, *null, f"{MODEL}networks.state_size", "5", error=DataError, words=words)
    refused(data, tmp_path, *null, f"{MODEL}networks.max_steps", "20", error=DataError, words="has max_steps 40")
    refused(data, tmp_path, f"{MODEL}networks.action_size", "1", words="action_size is 1, but PointMass has 2")
    refused(data, tmp_path, f"{MODEL}episodes", "0", words="episodes 0; expected 0 or more, and at least 1")
    refused(data, tmp_path, "--data.init_args.train.limit", "3", words="train.limit is of rows, not of .npz files")


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "train.npz").write_bytes(b"mine")
    with pytest.raises(OutputError, match="train.npz exists and is no earlier result"):
        COMMANDS["control"](["--out", str(tmp_path)])
    assert (tmp_path / "train.npz").read_bytes() == b"mine"


def test_no_memory_is_estimated(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prl estimate is for language models"):
        COMMANDS["estimate"]([*arguments(data, tmp_path)[1:], "--processes", "1"])
