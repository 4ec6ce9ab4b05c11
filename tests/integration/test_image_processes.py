"""Models of pictures in two processes: the draws of a row do not depend on which process reads it."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.pictures import write_pictures, write_stable_diffusion, write_stable_diffusion_3
from tests.helpers.processes import run_all
from tests.integration.runs import CONFIGS, last_checkpoint
from tests.integration.test_image_runs import MODEL, arguments
from tests.integration.test_tensorboard import events, scalars
from tests.integration.test_two_processes import STRATEGIES

pytest.importorskip("diffusers")

ONE_STEP = (f"{MODEL}update.epochs", "1", f"{MODEL}update.minibatches", "1", f"{MODEL}kl.coef", "0.1")
CASES = [
    *(
        pytest.param(stage, strategy, id=f"{stage}-{strategy}", marks=pytest.mark.slow)
        for stage, strategy in (
            *(
                ("preference", "ddp"),
                ("trajectory_policy", "ddp"),
                ("base", "ddp"),
                ("preference", "fsdp2"),
                ("preference", "zero2"),
            ),
            *(("trajectory_policy", "fsdp2"), ("trajectory_policy", "zero2"), ("preference", "zero3")),
            *(("self_npo", "ddp"), ("self_npo", "fsdp2"), ("self_npo", "zero2"), ("self_npo", "zero3")),
        )
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "data")
    write_stable_diffusion_3(folder / "flow", latent=False)
    write_stable_diffusion(folder / "stable_diffusion")
    return folder


def run(home: Path, stage: str, folder: Path, processes: int, *overrides: str) -> dict[str, torch.Tensor]:
    own: tuple[str, ...] = ONE_STEP if stage == "trajectory_policy" else ()
    if stage == "self_npo":  # with the default the moves of the teacher would be below the tolerance
        own += (f"{MODEL}teacher_decay", "0.5")
    own += (f"{MODEL}optimization.learning_rate", "1e-3", "--data.init_args.validation_batch_size", "4")
    args = arguments(home, stage, folder, *own, *overrides)
    args[3:3] = ["--config", str(CONFIGS / "strategies" / "ddp.yaml"), "--trainer.devices", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = run_all([sys.executable, "-m", "prl", *args], cwd=CONFIGS.parent, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return last_checkpoint(folder)["state_dict"]


@pytest.mark.parametrize(("stage", "strategy"), CASES)
def test_two_processes_learn_and_measure_what_one_does(stage, strategy, home, tmp_path) -> None:
    alone = run(home, stage, tmp_path / "one", 1)
    together = run(home, stage, tmp_path / "two", 2, *STRATEGIES[strategy])
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-4, atol=2e-5, msg=name)
    one, two = (scalars(events(tmp_path / folder)) for folder in ("one", "two"))
    for tag in ("val/reward", *(["reward/score"] if stage == "trajectory_policy" else ["val/loss"])):
        assert [value for _, value in two[tag]] == pytest.approx([value for _, value in one[tag]], abs=1e-4), tag


EARLIER = {"every": 1, "kept": 3, "sampling": {"steps": 2}}
SOURCES = {"EarlierSelves": EARLIER, "PolicyStates": {"every": 2, "steps": 3}}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "strategy"), [("EarlierSelves", "ddp"), ("PolicyStates", "zero2")])
def test_two_processes_make_the_rejected_pictures_that_one_does(source, strategy, home, tmp_path) -> None:
    rejected = {"class_path": f"prl.diffusion.rejected.{source}", "init_args": SOURCES[source]}
    own = [f"{MODEL}rejected", json.dumps(rejected), "--data.class_path", "CaptionedImageDataModule"]
    for split in ("train", "validation"):
        own += [f"--data.init_args.{split}.path", str(home / "data" / f"captioned.{split}.jsonl")]
    alone = run(home, "preference", tmp_path / "one", 1, *own)
    together = run(home, "preference", tmp_path / "two", 2, *own, *STRATEGIES[strategy])
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_a_process_without_a_measured_picture_waits_for_none(strategy, home, tmp_path) -> None:
    """One picture is measured, so one of the two processes makes none; weights are in shards, also of a nested UNet."""
    own = (f"{MODEL}measured", "1", f"{MODEL}model.path", str(home / "stable_diffusion"), "--trainer.max_steps", "2")
    run(home, "preference", tmp_path, 2, *own, *STRATEGIES[strategy])
    assert "val/reward" in scalars(events(tmp_path))
