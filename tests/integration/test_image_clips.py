"""Models of video through the command line: clips are pictures with a time axis, and nothing else is new."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prl.cli.app import run_stage
from prl.config import ModelSource
from prl.data import DataError
from prl.diffusion.denoisers import load_denoiser
from prl.diffusion.rewards import LearnedImageReward, NoisyLatentReward
from prl.diffusion.rewards.conv_scorer import ConvScorer
from tests.helpers.pictures import tokenizer, write_pictures, write_wan
from tests.integration.runs import differences, last_checkpoint
from tests.integration.test_image_reward import arguments as reward_arguments
from tests.integration.test_image_runs import MODEL, arguments
from tests.integration.test_tensorboard import events, scalars

pytest.importorskip("diffusers")

CLIP = (f"{MODEL}clip", "[5, 8, 8]", f"{MODEL}prompt_tokens", "6")
LORA = json.dumps({"rank": 2, "alpha": 4, "target_modules": ["to_q", "to_v"]})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_pictures(folder / "data", frames=5)
    write_wan(folder / "latents")
    write_wan(folder / "pixels", latent=False)
    ConvScorer(tokenizer(), image_size=8, width=8, frames=5).save(folder / "scorer")
    return folder


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        ("latents", "preference"),
        pytest.param("pixels", "trajectory_policy", marks=pytest.mark.slow),
        pytest.param("latents", "trajectory_policy", marks=pytest.mark.slow),
        pytest.param("pixels", "base", marks=pytest.mark.slow),
    ],
)
def test_a_model_of_video_trains_and_is_resumed_exactly(model, stage, home, tmp_path) -> None:
    own = (*CLIP, f"{MODEL}model.path", str(home / model), f"{MODEL}model.lora", LORA)
    run_stage(arguments(home, stage, tmp_path / "whole", *own))
    halfway = tmp_path / "whole" / "checkpoints" / "batch-000002.ckpt"
    run_stage(arguments(home, stage, tmp_path / "cut", *own, "--ckpt_path", str(halfway)))
    whole, cut = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "cut")
    for part in ("state_dict", "optimizer_states", "run_state"):
        assert differences(whole[part], cut[part]) == []
    (file,) = list((tmp_path / "whole").rglob("events.*"))
    shown = EventAccumulator(str(file), size_guidance={"images": 0}).Reload().Images("pictures")[-1]
    assert (shown.width, shown.height) == (4 * 8, 5 * 8)  # the frames of a clip are below each other
    start, trained = (
        load_denoiser(ModelSource(path=str(each)), 6, [5, 8, 8])[1] for each in (home / model, tmp_path / "whole/model")
    )
    moved = {name for name, weight in trained.named_parameters() if not torch.equal(weight, start.get_parameter(name))}
    assert {name.split(".")[-2] for name in moved} == {"to_q", "to_v"}


def test_a_reward_of_clips_is_trained_and_read(home, tmp_path) -> None:
    run_stage(reward_arguments(home, tmp_path, "scorer"))
    assert len(scalars(events(tmp_path))["train/loss"]) > 0
    reward = LearnedImageReward(str(tmp_path / "model"))
    clips = torch.rand(2, 3, 5, 8, 8)
    still = clips[:, :, :1].expand_as(clips)
    assert not torch.equal(reward.score(clips, ["a red circle"] * 2), reward.score(still, ["a red circle"] * 2))
    with pytest.raises(ValueError, match=r"pictures have shape \(3, 8, 8\); this reward model reads \(3, 5, 8, 8\)"):
        reward.score(clips[:, :, 0], ["a red circle"] * 2)


def test_a_reward_of_noisy_clips_is_trained(home, tmp_path) -> None:
    own = (f"{MODEL}noisy.pipeline", str(home / "pixels"), f"{MODEL}noisy.clip", "[5, 8, 8]")
    run_stage(reward_arguments(home, tmp_path, "scorer", *own))
    reward = NoisyLatentReward(str(tmp_path / "model"))
    clips, share = torch.rand(2, 3, 5, 8, 8, requires_grad=True), torch.tensor([0.1, 0.9])
    reward.score(clips, ["a red circle"] * 2, share).sum().backward()
    assert clips.grad is not None
    assert clips.grad.flatten(1).any(1).all()


def test_clips_of_another_length_are_refused_with_their_row(home, tmp_path) -> None:
    write_pictures(tmp_path / "data", frames=3)
    with pytest.raises(DataError, match=r"row 1.*3 frames of 8x8 pixels.*expected pictures of 5 frames"):
        run_stage(
            arguments(tmp_path, "preference", tmp_path / "run", *CLIP, f"{MODEL}model.path", str(home / "pixels"))
        )
    with pytest.raises((ValueError, SystemExit), match="clip is .5, 8.; expected null, or frames, height and width"):
        run_stage(arguments(home, "preference", tmp_path / "run", f"{MODEL}clip", "[5, 8]"))
