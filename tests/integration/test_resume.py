"""A run that was cut off and continued ends bit for bit where an uninterrupted one does."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from prl.checkpoints.files import LAST, find_corruption
from prl.checkpoints.ledger import LEDGER, compare, read_ledger
from prl.cli.app import run_stage
from prl.run_folder.lock import RunInUseError, run_lock
from tests.helpers.processes import run_all
from tests.integration.runs import (
    CONFIGS,
    Home,
    Interrupt,
    InterruptedRun,
    callback,
    differences,
    last_checkpoint,
    state_of,
)
from tests.integration.test_tensorboard import events, scalars

ROOT = CONFIGS.parent
MODEL = "--model.init_args."
# Four batches in an epoch; ten batches are two epochs and a half.
TRAINING = ("--trainer.max_steps", "10", f"{MODEL}optimization.schedule", "cosine", f"{MODEL}optimization.warmup", "2")
PPO = (
    *(f"{MODEL}iterations", "7", f"{MODEL}optimization.schedule", "cosine", f"{MODEL}optimization.warmup", "2"),
    *(f"{MODEL}kl.target", "0.5", f"{MODEL}kl.horizon", "50"),
    *(f"{MODEL}critic.warmup", "5"),
)
LONG = (*PPO, f"{MODEL}iterations", "200", f"{MODEL}sampling.max_new_tokens", "24")
STAGES: dict[str, tuple[str, ...]] = {
    "supervised": TRAINING,
    "generative_reward": TRAINING,
    "bradley_terry": TRAINING,
    "pairwise_ppo": PPO,
}
"""Checkpoints come every second batch, validations every third."""


def assert_same_end(run: Path, other: Path) -> None:
    assert differences(state_of(run), state_of(other)) == []
    exported, expected = run / "model" / "model.safetensors", other / "model" / "model.safetensors"
    assert exported.read_bytes() == expected.read_bytes()


class Uninterrupted:
    """Whole runs, made once for each stage and its settings."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.runs: dict[tuple[str, ...], Path] = {}

    def __call__(self, stage: str, *overrides: str) -> Path:
        key = (stage, *overrides)
        if key not in self.runs:
            run = Path(tempfile.mkdtemp(dir=self.folder))  # one that was cut off by a time limit leaves its folder
            self.home.run(stage, run, *STAGES[stage], *overrides)
            self.runs[key] = run
        return self.runs[key]


@pytest.fixture(scope="module")
def uninterrupted(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    return Uninterrupted(home, tmp_path_factory.mktemp("uninterrupted"))


# ---- killed processes


def killed(home: Home, stage: str, run: Path, **moment: Any) -> None:
    """Run a real process that dies by SIGKILL at the moment."""
    args = home.arguments(stage, run, *STAGES[stage], callback(Interrupt, number=signal.SIGKILL, **moment))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = run_all([sys.executable, "-m", "prl", *args], cwd=ROOT, env=environment)
    assert ended.returncode == -9, ended.stderr


@pytest.mark.parametrize(
    ("stage", "moment", "resumes_at"),
    [
        # In the middle of the second epoch.
        pytest.param("generative_reward", {"batch": 7, "moment": "backward"}, 6, id="judge", marks=pytest.mark.slow),
        # In the middle of an iteration's updates, after a validation that no checkpoint knows, before the warm-up ends.
        pytest.param("pairwise_ppo", {"batch": 3, "moment": "backward", "times": 5}, 2, id="ppo"),
        pytest.param("supervised", {"batch": 8, "moment": "saving"}, 6, id="supervised", marks=pytest.mark.slow),
        pytest.param(
            "bradley_terry", {"batch": 9, "moment": "validation"}, 8, id="bradley_terry", marks=pytest.mark.slow
        ),
        pytest.param("pairwise_ppo", {"batch": 6, "moment": "saving"}, 4, id="ppo_saving", marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_like_an_uninterrupted_one(
    stage: str, moment: dict[str, Any], resumes_at: int, home: Home, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    killed(home, stage, tmp_path, **moment)
    assert batches_in(tmp_path) == resumes_at
    assert not (tmp_path / "model").exists()
    home.run(stage, tmp_path, *STAGES[stage], "--ckpt_path", "last")
    assert_same_end(tmp_path, uninterrupted(stage))


@pytest.mark.slow
def test_twenty_kills_at_any_time_change_no_bit(home: Home, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    """SIGKILL and SIGTERM by turns, at random times up to four batches after training has begun."""
    moments = random.Random(0)
    context = multiprocessing.get_context("forkserver")  # real processes, without the imports of each
    context.set_forkserver_preload(["prl.cli.app"])
    ledger, resume, kills = tmp_path / LEDGER, (), []
    while len(kills) < 20:
        start, begun = num_lines(ledger), 0.0
        enough = start + moments.randint(1, 4)  # the first line is that of the session
        process = context.Process(target=run_stage, args=(home.arguments("pairwise_ppo", tmp_path, *LONG, *resume),))
        process.start()
        while process.is_alive() and num_lines(ledger) < enough:
            begun = begun or (time.monotonic() if num_lines(ledger) > start else 0.0)
            time.sleep(0.01)
        time.sleep(moments.random() * max(0.3, (time.monotonic() - (begun or time.monotonic())) / (enough - start)))
        assert process.pid is not None
        os.kill(process.pid, (signal.SIGKILL, signal.SIGTERM)[len(kills) % 2])
        process.join(timeout=120)
        assert process.exitcode in (-signal.SIGKILL, 143)
        kills.append(process.exitcode)
        resume = ("--ckpt_path", "last") if (tmp_path / "checkpoints" / LAST).exists() else ()
    assert kills.count(143) == 10
    home.run("pairwise_ppo", tmp_path, *LONG, *resume)
    whole = uninterrupted("pairwise_ppo", *LONG[len(PPO) :])
    assert_same_end(tmp_path, whole)
    assert same_ledger(tmp_path, whole)
    assert position(tmp_path) == position(whole)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def same_ledger(run: Path, other: Path) -> bool:
    """Whether every batch read and gave the same to the last bit, those before each interruption included."""
    lines, expected = (list(read_ledger(each / LEDGER)[0].values()) for each in (run, other))
    return len(lines) == len(expected) and compare(expected, lines, tolerance=0) is None


def batches_in(run: Path) -> int:
    loops = last_checkpoint(run)["loops"]["fit_loop"]
    return loops["epoch_loop.batch_progress"]["total"]["processed"]


# ---- the same with an exception in this process, which is cheaper

ACCUMULATE = ("--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "5")
MID_UPDATE = {"moment": "backward", "times": 5}
CASES = {
    # Where an epoch ends, the newest checkpoint holds all of its batches.
    "epoch_boundary": ("generative_reward", (), [{"batch": 4, "moment": "backward"}]),
    # Checkpoints after 2, 4 and 6; validations after 3 and 6, before the checkpoint of the same batch is in place.
    "phases": (
        "pairwise_ppo",
        (),
        [
            {"batch": 2, "moment": "rollout"},
            {"batch": 3, "moment": "judge"},
            {"batch": 4, "moment": "saving"},
            {"batch": 5, "moment": "score"},
            {"batch": 6, "moment": "validation"},
        ],
    ),
    "epoch_end": ("generative_reward", (), [{"batch": 5}]),
    "twice": ("generative_reward", (), [{"batch": 3}, {"batch": 7, "moment": "backward"}]),
    "ppo_twice": ("pairwise_ppo", (), [{"batch": 3, **MID_UPDATE}, {"batch": 5}]),
    "random_order": ("generative_reward", (f"{MODEL}order", "random", f"{MODEL}text_coef", "0"), [{"batch": 7}]),
    "worker": ("generative_reward", ("--data.init_args.num_workers", "1"), [{"batch": 7}]),
    "ppo_worker": ("pairwise_ppo", ("--data.init_args.num_workers", "1"), [{"batch": 5}]),
    # Checkpoints after whole steps.
    "accumulation": ("generative_reward", ACCUMULATE, [{"batch": 7}]),
    # The newest checkpoint lies between the two batches of an accumulated step.
    "within_accumulation": ("generative_reward", (*ACCUMULATE, "--checkpoint.every_n_batches", "3"), [{"batch": 5}]),
    "shared_critic": ("pairwise_ppo", (f"{MODEL}critic.kind", "shared"), [{"batch": 5}]),
    "lora": ("pairwise_ppo", (f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.kind", "shared"), [{"batch": 3}]),
    "adapter_critic": (
        "pairwise_ppo",
        (f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.kind", "adapter"),
        [{"batch": 3}],
    ),
    # What the judge has kept is gone, and must not be missed.
    "prefix_cache": ("pairwise_ppo", (f"{MODEL}reward.init_args.prefix_cache_gib", "0.1"), [{"batch": 5}]),
    "bradley_terry": ("bradley_terry", (), [{"batch": 7}]),
    "supervised": ("supervised", ("--trainer.limit_val_batches", "0"), [{"batch": 5}]),
}
QUICK = {"phases", "twice", "within_accumulation", "bradley_terry"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES]
)
def test_interrupted_run_ends_like_an_uninterrupted_one(
    case: str, home: Home, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    stage, overrides, moments = CASES[case]
    resume: list[str] = []
    for moment in moments:
        with pytest.raises(InterruptedRun):
            home.run(stage, tmp_path, *STAGES[stage], *overrides, callback(Interrupt, **moment), *resume)
        resume = ["--ckpt_path", "last"]
    home.run(stage, tmp_path, *STAGES[stage], *overrides, *resume)
    assert_same_end(tmp_path, uninterrupted(stage, *overrides))
    assert same_ledger(tmp_path, uninterrupted(stage, *overrides))


# ---- signals: the last completed batch is saved, whatever the checkpoints' interval

SELDOM = ("--checkpoint.every_n_batches", "100")
STOPS: dict[str, tuple[str, tuple[str, ...], list[tuple[dict[str, Any], int]]]] = {
    # An iteration is given up before its update, and completed from there on. Validation comes after batches 3 and 6.
    "ppo": (
        "pairwise_ppo",
        SELDOM,
        [
            ({"batch": 1, "moment": "rollout"}, 1),
            ({"batch": 2, "moment": "judge"}, 2),
            ({"batch": 3, "moment": "validation"}, 3),
            ({"batch": 3, "moment": "backward", "times": 5}, 4),
        ],
    ),
    "ppo_saving": ("pairwise_ppo", (), [({"batch": 2, "moment": "saving"}, 2)]),
    # An epoch has four batches.
    "epoch_end": ("pairwise_ppo", SELDOM, [({"batch": done, "moment": "rollout"}, done) for done in (4, 5, 6)]),
    # Between the two batches of an accumulated step there is nothing to save but what was before them.
    "judge": (
        "generative_reward",
        (*SELDOM, *ACCUMULATE),
        [
            ({"batch": 2, "moment": "backward"}, 2),
            ({"batch": 6, "moment": "validation"}, 6),
        ],
    ),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in ("ppo", "judge") else [pytest.mark.slow]) for case in STOPS],
)
def test_stopped_run_ends_like_an_uninterrupted_one(
    case: str, home: Home, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    stage, overrides, stops = STOPS[case]
    whole = uninterrupted(stage, *(overrides if case == "judge" else ()))
    resume: list[str] = []
    for moment, saved in stops:
        interrupt = callback(Interrupt, number=signal.SIGTERM, **moment)
        with pytest.raises(SystemExit) as stopped:
            home.run(stage, tmp_path, *STAGES[stage], *overrides, interrupt, *resume)
        assert stopped.value.code == 143
        assert batches_in(tmp_path) == saved
        assert not (tmp_path / "model").exists()
        resume = ["--ckpt_path", "last"]
    home.run(stage, tmp_path, *STAGES[stage], *overrides, *resume)
    assert_same_end(tmp_path, whole)
    assert same_ledger(tmp_path, whole)
    assert validations(tmp_path) == validations(whole)
    assert position(tmp_path) == position(whole)


def position(run: Path) -> dict[str, Any]:
    """Lightning's counters: batches in all and in the epoch, epochs, and the x axis of the curves."""
    loops = last_checkpoint(run)["loops"]["fit_loop"]
    return {name: loops[name] for name in ("epoch_loop.batch_progress", "epoch_progress", "epoch_loop.state_dict")}


def validations(run: Path) -> dict[str, Any]:
    """Every point of every curve of the validations; one that was cut short must come again, at its step."""
    return {tag: points for tag, points in scalars(events(run)).items() if tag.startswith("val/")}


def test_a_run_that_is_stopped_before_its_first_batch_is_done_leaves_no_checkpoint(home: Home, tmp_path: Path) -> None:
    for number, code in ((signal.SIGUSR1, 138), (signal.SIGINT, 130)):
        interrupt = callback(Interrupt, batch=0, moment="rollout", number=number)
        with pytest.raises(SystemExit) as stopped:
            home.run("pairwise_ppo", tmp_path, *PPO, interrupt)
        assert stopped.value.code == code
        assert list(tmp_path.glob("checkpoints/*")) == []


@pytest.mark.parametrize("stage", ["generative_reward", "pairwise_ppo"])
def test_resuming_a_finished_run_keeps_its_weights(
    stage: str, home: Home, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted(stage), tmp_path, dirs_exist_ok=True)
    home.run(stage, tmp_path, *STAGES[stage], "--ckpt_path", "last")
    assert batches_in(tmp_path) == batches_in(uninterrupted(stage))
    assert_same_end(tmp_path, uninterrupted(stage))


@pytest.mark.parametrize("stage", ["generative_reward", pytest.param("pairwise_ppo", marks=pytest.mark.slow)])
def test_a_finished_run_can_be_made_longer(stage: str, home: Home, tmp_path: Path) -> None:
    length = f"{MODEL}iterations" if stage == "pairwise_ppo" else "--trainer.max_steps"
    constant = (f"{MODEL}optimization.schedule", "constant")
    home.run(stage, tmp_path / "whole", *STAGES[stage], *constant)
    home.run(stage, tmp_path / "parts", *STAGES[stage], *constant, length, "4")
    assert batches_in(tmp_path / "parts") == 4
    home.run(stage, tmp_path / "parts", *STAGES[stage], *constant, "--ckpt_path", "last")
    assert_same_end(tmp_path / "parts", tmp_path / "whole")


def test_what_others_left_among_the_checkpoints_does_no_harm(
    home: Home, uninterrupted: Uninterrupted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process killed at its first checkpoint, Lightning's callback that wants `last.ckpt` too, half a checkpoint."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "batch-000002.ckpt").write_bytes(b"moved into place, and no manifest yet")
    lightnings = {"monitor": "train/loss", "save_last": True, "every_n_train_steps": 1}
    own = "--trainer.callbacks+=" + json.dumps({"class_path": "ModelCheckpoint", "init_args": lightnings})
    with pytest.raises(InterruptedRun):
        home.run("supervised", tmp_path, *STAGES["supervised"], own, callback(Interrupt, batch=5))
    assert "ended before its first checkpoint was whole; it starts from the beginning" in caplog.text
    assert (folder / "model-checkpoint-last.ckpt").is_file()
    partial = folder / "batch-000006.partial"
    partial.write_bytes(b"half a checkpoint")
    home.run("supervised", tmp_path, *STAGES["supervised"], own, "--ckpt_path", "last")
    assert not partial.exists()
    assert [find_corruption(path) for path in sorted(folder.glob("batch-*.ckpt"))] == [None, None]
    assert_same_end(tmp_path, uninterrupted("supervised"))


def test_a_second_run_in_the_same_folder_is_refused_before_anything_is_read(home: Home, tmp_path: Path) -> None:
    missing = str(tmp_path / "there")
    with run_lock(tmp_path):
        with pytest.raises(RunInUseError, match=f"process {os.getpid()} on"):
            home.run("supervised", tmp_path, f"{MODEL}model.tokenizer", missing, "--overwrite", "true")
        with pytest.raises(ValueError, match=missing):  # what reads only is let in
            home.run("supervised", tmp_path, f"{MODEL}model.tokenizer", missing, verb="validate")


def test_settings_on_resume_are_those_of_the_command_line(home: Home, tmp_path: Path) -> None:
    home.run("pairwise_ppo", tmp_path, f"{MODEL}iterations", "1")
    again = ("--ckpt_path", "last", f"{MODEL}iterations", "2", f"{MODEL}objective.init_args.clip_range", "0.37")
    smaller = ("--data.init_args.batch_size", "4")
    with pytest.raises(ValueError, match=r"- data.batch_size: 8 at the checkpoint, 4 now\n.*'\[data.batch_size\]'"):
        home.run("pairwise_ppo", tmp_path, *again, *smaller)
    with pytest.raises(
        ValueError, match=r"--accept_changes names 'data.batchsize', .* its inputs are .*data.batch_size"
    ):
        home.run("pairwise_ppo", tmp_path, *again, *smaller, "--accept_changes", "[data.batchsize]")
    report = (tmp_path / "data_report.json").read_text()
    with pytest.raises(ValueError, match="data.train.limit"):
        home.run("pairwise_ppo", tmp_path, *again, "--data.init_args.train.limit", "16")
    assert (tmp_path / "data_report.json").read_text() == report
    cli = home.run("pairwise_ppo", tmp_path, *again, *smaller, "--accept_changes", "[data.batch_size]")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["accept_changes"] is False
    assert last_checkpoint(tmp_path)["inputs"]["data.batch_size"] == 4
    assert cli.model.objective.clip_range == 0.37
    assert cli.model.batches_done() == 2


def test_another_learning_rate_of_the_critic_is_refused_on_resume(home: Home, tmp_path: Path) -> None:
    """The optimizer's saved state would override it without a word."""
    home.run("pairwise_ppo", tmp_path, f"{MODEL}iterations", "1", f"{MODEL}critic.learning_rate", "1e-3")
    with pytest.raises(ValueError, match=r"'critic_learning_rate': 0.001.*the configuration says.*0.002"):
        home.run("pairwise_ppo", tmp_path, "--ckpt_path", "last", f"{MODEL}critic.learning_rate", "2e-3")
