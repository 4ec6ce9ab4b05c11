"""Models of pictures through the command line: what a run learns, logs and writes, a stop and a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import TrajectoryPolicyModule
from prl.cli.app import run_stage
from prl.config import ModelSource
from prl.data import DataError
from prl.diffusion.denoisers import load_denoiser
from tests.helpers.pictures import (
    Brightness,
    write_class_conditional,
    write_pictures,
    write_stable_diffusion,
    write_stable_diffusion_3,
)
from tests.integration.runs import CONFIGS, Interrupt, InterruptedRun, callback, differences, last_checkpoint, state_of
from tests.integration.test_tensorboard import events, scalars

pytest.importorskip("diffusers")

MODEL = "--model.init_args."
ROWS = {"base": "captioned", "preference": "pairs", "trajectory_policy": "prompts", "self_npo": "prompts"}
REWARD = "tests.helpers.pictures.Brightness"
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "data")
    write_pictures(folder / "grey", channels=1)
    write_stable_diffusion_3(folder / "flow", latent=False)
    write_stable_diffusion(folder / "stable_diffusion")
    write_stable_diffusion_3(folder / "stable_diffusion_3")
    write_class_conditional(folder / "classes")
    return folder


def arguments(home: Path, stage: str, run: Path, *overrides: str, verb: str = "fit", data: str = "data") -> list[str]:
    """Shrink the shipped config of a stage; later overrides win."""
    args = [verb, "--config", str(CONFIGS / "images" / f"{stage}.yaml"), "--run_dir", str(run)]
    for split in ("train", "validation"):
        args += [f"--data.init_args.{split}.path", str(home / data / f"{ROWS[stage]}.{split}.jsonl")]
    args += ["--data.init_args.batch_size", "4", "--data.init_args.validation_batch_size", "5"]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"]
    args += ["--trainer.val_check_interval", "1", "--checkpoint.every_n_batches", "2"]
    args += [f"{MODEL}model.path", str(home / "flow"), f"{MODEL}reward", REWARD, f"{MODEL}measured", "6"]
    args += [f"{MODEL}shown", "4", f"{MODEL}optimization.learning_rate", "3e-3", f"{MODEL}optimization.warmup", "0"]
    if stage == "trajectory_policy":
        args += [f"{MODEL}iterations", "4", f"{MODEL}sampling.steps", "4", f"{MODEL}sampling.per_prompt", "3"]
        args += [f"{MODEL}validation_sampling.steps", "3", f"{MODEL}update.microbatch_size", "3"]
    else:
        args += ["--trainer.max_steps", "4", f"{MODEL}sampling.steps", "3"]
    return [*args, *overrides]


@pytest.fixture(scope="module", params=ROWS)
def whole(request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    run = tmp_path_factory.mktemp("runs") / str(request.param)
    run_stage(arguments(home, request.param, run))
    return str(request.param), run


OWN = {
    "base": {"train/loss", "val/loss"},
    "preference": {"train/loss", "train/accuracy", "train/margin", "val/loss", "val/accuracy", "val/margin"},
    "self_npo": {"train/loss", "val/loss"},
    "trajectory_policy": {"reward/score", "reward/score_std", "policy/loss", "policy/ratio_max", "policy/grad_norm"},
}


def test_curves_pictures_and_a_model_for_plain_diffusers(whole, home) -> None:
    stage, run = whole
    found = scalars(events(run))
    assert OWN[stage] | {"val/reward"} <= found.keys()
    (file,) = list(run.rglob("events.*"))
    board = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
    shown = board.Images("pictures")
    assert [each.step for each in shown] == [step for step, _ in found["val/reward"]]
    assert len(shown) == 4 + (stage != "base")  # the pictures before, where a whole validation comes first
    assert (shown[0].width, shown[0].height) == (4 * 8, 8)
    start, trained = (load_denoiser(ModelSource(path=str(each)), 0)[1] for each in (home / "flow", run / "model"))
    moved = [name for name, weight in trained.named_parameters() if not torch.equal(weight, start.get_parameter(name))]
    assert moved
    own = last_checkpoint(run)["state_dict"]
    assert all(torch.equal(weight, own[f"model.{name}"]) for name, weight in trained.named_parameters())
    saved = {"model", "teacher"} if stage == "self_npo" else {"model"}
    assert {name.partition(".")[0] for name in own} == saved  # frozen parts are read again from their folder


def test_a_stopped_run_ends_like_a_whole_one(whole, home, tmp_path) -> None:
    stage, run = whole
    with pytest.raises(InterruptedRun):
        run_stage(arguments(home, stage, tmp_path, callback(Interrupt, batch=3)))
    run_stage(arguments(home, stage, tmp_path, "--ckpt_path", "last"))
    assert differences(state_of(tmp_path), state_of(run)) == []
    lines = [(folder / "ledger.jsonl").read_text().splitlines() for folder in (tmp_path, run)]
    last = [json.loads(each[-1]) for each in lines]
    assert last[0] == last[1]


def test_validating_the_last_checkpoint_measures_what_training_did(whole, home) -> None:
    stage, run = whole
    cli = run_stage(arguments(home, stage, run, "--ckpt_path", "last", verb="validate"))
    assert float(cli.trainer.callback_metrics["val/reward"]) == scalars(events(run))["val/reward"][-1][1]


ONE_STEP = (f"{MODEL}update.epochs", "1", f"{MODEL}update.minibatches", "1")
SEVERAL_STEPS = (f"{MODEL}update.epochs", "2", f"{MODEL}update.minibatches", "2")


@pytest.mark.parametrize(
    ("overrides", "passes"), [(ONE_STEP, 1), (SEVERAL_STEPS, 1 + 2)], ids=["one step", "several steps"]
)
def test_at_learning_rate_0_every_ratio_is_exactly_1(overrides, passes, home, tmp_path, monkeypatch) -> None:
    """An iteration of one step needs no pass for the policy that sampled: the update's own is that policy."""
    networks, read = [], TrajectoryPolicyModule.read

    def watched(module, network, *rest):
        networks.append(network is module.model)
        return read(module, network, *rest)

    monkeypatch.setattr(TrajectoryPolicyModule, "read", watched)
    frozen = (f"{MODEL}optimization.learning_rate", "0", "--trainer.limit_val_batches", "0")
    run_stage(arguments(home, "trajectory_policy", tmp_path, *frozen, f"{MODEL}kl.coef", "0.1", *overrides))
    assert sum(networks) == 4 * 4 * passes  # iterations of four micro-batches
    found = scalars(events(tmp_path))
    for tag in ("policy/ratio_mean", "policy/ratio_max"):
        assert {value for _, value in found[tag]} == {1.0}
    assert {value for _, value in found["policy/step_kl"]} == {0.0}


class Failing(Brightness):
    """No reward for every third picture."""

    def score(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        found = super().score(images, prompts)
        return found.masked_fill(torch.arange(len(found)) % 3 == 0, float("nan"))


def test_a_picture_without_a_reward_is_left_out(home, tmp_path, monkeypatch) -> None:
    """Of three pictures of a prompt the first never counts; a micro-batch of one picture may have none that does."""
    monkeypatch.setattr("tests.helpers.pictures.Brightness", Failing)
    own = ("--trainer.limit_val_batches", "0", f"{MODEL}update.microbatch_size", "1")
    run_stage(arguments(home, "trajectory_policy", tmp_path, *own))
    found = scalars(events(tmp_path))
    assert [value for _, value in found["reward/failed_frac"]] == pytest.approx([1 / 3] * 4)
    assert all(abs(value) < float("inf") for _, value in found["policy/grad_norm"])


def test_validations_measure_as_many_pictures_whatever_is_shown(home, tmp_path) -> None:
    """A reward that compares is measured by the held-out one alone."""
    rate = {"judge": {"class_path": "prl.diffusion.rewards.RewardDifference", "init_args": {"reward": REWARD}}}
    own = (f"{MODEL}reward", json.dumps({"class_path": "prl.diffusion.rewards.WinRate", "init_args": rate}))
    cli = run_stage(
        arguments(home, "trajectory_policy", tmp_path, *own, f"{MODEL}heldout_reward", REWARD, f"{MODEL}shown", "0")
    )
    assert cli.model.pictures.measured == 6
    assert "val/heldout_reward" in scalars(events(tmp_path))
    with pytest.raises(
        (ValueError, SystemExit), match="heldout_reward is WinRate, which rewards a picture only beside"
    ):
        run_stage(arguments(home, "trajectory_policy", tmp_path / "other", f"{MODEL}heldout_reward", own[1]))


def test_predictions_have_the_draws_of_validations(home, tmp_path) -> None:
    """Whatever the size of a batch is."""
    run_stage(arguments(home, "preference", tmp_path))
    found = []
    for size in ("2", "5"):
        own = ("--ckpt_path", "last", "--data.init_args.validation_batch_size", size)
        run_stage(arguments(home, "preference", tmp_path, *own, verb="predict"))
        (file,) = tmp_path.rglob("predictions*.jsonl")
        found.append([json.loads(line)["margin"] for line in file.read_text().splitlines()])
        file.unlink()
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-6)


def test_a_prompt_that_would_be_cut_is_refused(home, tmp_path) -> None:
    rows = [json.dumps({"prompt": text}) + "\n" for text in ("a red circle", "a red circle a red circle a red circle")]
    (tmp_path / "prompts.jsonl").write_text("".join(rows))
    own = ("--data.init_args.train.path", str(tmp_path / "prompts.jsonl"))
    with pytest.raises(
        (DataError, SystemExit), match="row 2, field 'prompt': found 7 tokens .prompt too long.; expected at most 6"
    ):
        run_stage(arguments(home, "trajectory_policy", tmp_path / "run", *own))


class Square(Brightness):
    """Gives a number for each pair of pictures."""

    def score(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        return super().score(images, prompts)[:, None] * torch.ones(len(images))


def test_sizes_that_a_unet_cannot_halve_are_refused(home) -> None:
    denoiser, _ = load_denoiser(ModelSource(path=str(home / "stable_diffusion")))
    assert denoiser.latents_of(12) == (4, 6, 6)
    with pytest.raises(ValueError, match="of 6 pixels cannot be made by this model; expected a multiple of 4"):
        denoiser.latents_of(6)
    flow, _ = load_denoiser(ModelSource(path=str(home / "flow")))
    with pytest.raises(ValueError, match="of 10 pixels .* expected a multiple of 2 up to 8"):
        flow.latents_of(10)


def test_rewards_of_another_shape_are_refused(home, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.helpers.pictures.Brightness", Square)
    with pytest.raises((ValueError, SystemExit), match=r"Square gave rewards of shape .12, 12.; expected .* \[12\]"):
        run_stage(arguments(home, "trajectory_policy", tmp_path, "--trainer.num_sanity_val_steps", "0"))


@pytest.mark.parametrize("stage", ["base", "trajectory_policy"])
def test_predictions_score_a_picture_of_each_prompt(stage, home, tmp_path) -> None:
    run_stage(arguments(home, stage, tmp_path, "--trainer.limit_val_batches", "0"))
    run_stage(arguments(home, stage, tmp_path, "--ckpt_path", "last", verb="predict"))
    (file,) = tmp_path.rglob("predictions*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 8
    assert all(-1 <= row["reward"] <= 1 and row["prompt"] for row in rows)
    assert "Model of pictures" in (tmp_path / "model" / "README.md").read_text()


LORA = json.dumps({"rank": 2, "alpha": 4, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]})


@pytest.mark.parametrize(
    ("pipeline", "stage"),
    [
        ("stable_diffusion", "preference"),
        ("stable_diffusion_3", "trajectory_policy"),
        pytest.param("stable_diffusion", "trajectory_policy", marks=pytest.mark.slow),
        pytest.param("stable_diffusion_3", "preference", marks=pytest.mark.slow),
    ],
)
def test_adapters_on_stable_diffusion_train_and_load_in_plain_diffusers(pipeline, stage, home, tmp_path) -> None:
    """Equal noise gives equal pictures, from the exported pipeline and from adapters on the plain one."""
    from diffusers import DiffusionPipeline

    own = (f"{MODEL}model.path", str(home / pipeline), f"{MODEL}model.lora", LORA, f"{MODEL}prompt_tokens", "4")
    length = ("--trainer.max_steps", "1") if stage == "preference" else (f"{MODEL}iterations", "1")
    small = ("--trainer.limit_val_batches", "1", f"{MODEL}optimization.learning_rate", "0.1")
    run_stage(arguments(home, stage, tmp_path, *own, *length, *small))
    plain = DiffusionPipeline.from_pretrained(tmp_path / "model", **absent(tmp_path / "model"))
    start = DiffusionPipeline.from_pretrained(home / pipeline, **absent(home / pipeline))
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 2, "latents": noise, "output_type": "pt"}
    call |= {"height": 8, "width": 8, "guidance_scale": 1.0}
    call |= {"max_sequence_length": 4} if pipeline == "stable_diffusion_3" else {}
    trained, before = plain(**call).images, start(**call).images
    assert not torch.allclose(trained, before)
    denoiser, network = load_denoiser(ModelSource(path=str(tmp_path / "model")), 4)
    setattr(start, denoiser.part, network)
    torch.testing.assert_close(start(**call).images, trained)


def absent(folder: Path) -> dict[str, None]:
    """Parts that a pipeline does without, which diffusers wants named."""
    index = json.loads((folder / "model_index.json").read_text())
    return {name: None for name, value in index.items() if value == [None, None]}


def test_class_numbers_as_prompts(home, tmp_path) -> None:
    own = (f"{MODEL}model.path", str(home / "classes"), f"{MODEL}noise.prompt_dropout", "0.5")
    run_stage(arguments(home, "preference", tmp_path, *own, data="grey"))
    assert len(scalars(events(tmp_path))["train/loss"]) == 4
    with pytest.raises(
        (DataError, SystemExit), match="row 1, field 'prompt': found 'a red circle' .no such prompt.; exp"
    ):
        run_stage(arguments(home, "trajectory_policy", tmp_path / "words", *own[:2]))


def test_a_policy_learns_from_smaller_pictures_and_is_measured_at_full_size(home, tmp_path) -> None:
    """The network reads both sizes, and one that it cannot make is refused before training."""
    cli = run_stage(arguments(home, "trajectory_policy", tmp_path, f"{MODEL}sampling.size", "4"))
    made = cli.model.make(["a red circle"] * 3, [0, 0, 0])
    assert made.trajectories.latents.shape == (3, 3, 4, 4)
    assert cli.model.pictures.make(["a red circle"], [("one",)]).shape == (1, 3, 8, 8)
    with pytest.raises((ValueError, SystemExit), match="of 5 pixels cannot be made by this model; expected a multiple"):
        run_stage(arguments(home, "trajectory_policy", tmp_path / "odd", f"{MODEL}sampling.size", "5"))


@pytest.mark.parametrize(
    ("stage", "overrides", "said"),
    [
        ("preference", (f"{MODEL}objective", "prl.objectives.preference.OREO"), "OREO needs a critic, which pictures"),
        ("preference", (f"{MODEL}model.path", "nowhere/at/all"), "nowhere/at/all does not exist"),
        ("trajectory_policy", (f"{MODEL}advantage", "prl.advantages.GAE"), "GAE needs a critic"),
        ("trajectory_policy", (f"{MODEL}sampling.per_prompt", "1"), "GroupNormalized needs at least 2 pictures"),
        ("base", ("--data.init_args.train.path", "{data}/pairs.train.jsonl"), "image"),
    ],
)
def test_what_cannot_work_is_refused_before_training(stage, overrides, said, home, tmp_path) -> None:
    given = [each.format(data=home / "data") for each in overrides]
    with pytest.raises((ValueError, DataError, SystemExit), match=said):
        run_stage(arguments(home, stage, tmp_path, *given))
