"""Rewards of noisy latents: the input of the time, their folder, and their gradient."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.diffusion import DDPM, RectifiedFlow
from prl.diffusion.rewards import LearnedImageReward, NoisyLatentReward
from prl.diffusion.rewards.conv_scorer import SETTINGS, ConvScorer, load_conv_scorer
from prl.diffusion.rewards.scorers import load_scorer
from prl.diffusion.settings import NoisyPairs
from tests.helpers.pictures import PROMPTS, tokenizer

TEXTS = list(PROMPTS[:3])
LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIME = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


def scorer(**settings: Any) -> ConvScorer:
    torch.manual_seed(0)
    return ConvScorer(tokenizer(), image_size=8, channels=4, width=8, **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scorer(heads=("looks", "text"), time_input=True).save(tmp_path)
    return tmp_path


def test_a_folder_keeps_the_input_of_the_time(folder) -> None:
    read, made = load_conv_scorer(folder), scorer(heads=("looks", "text"), time_input=True)
    assert torch.equal(read(LATENTS, TEXTS, TIME), made(LATENTS, TEXTS, TIME))
    assert not torch.equal(read(LATENTS, TEXTS, TIME), read(LATENTS, TEXTS, 1 - TIME))


def test_without_it_the_folder_is_as_it_always_was(tmp_path) -> None:
    scorer().save(tmp_path)
    told = json.loads((tmp_path / SETTINGS).read_text())
    assert "time_input" not in told
    assert not load_conv_scorer(tmp_path).time_input


def test_a_model_of_clean_pictures_begins_with_what_it_knows(tmp_path) -> None:
    """Whatever the time is."""
    scorer().save(tmp_path)
    widened = load_scorer(str(tmp_path), noisy=True)
    expected = scorer()(LATENTS, TEXTS)
    for time in (TIME, 1 - TIME):
        torch.testing.assert_close(widened(LATENTS, TEXTS, time), expected)
    widened(LATENTS, TEXTS, TIME).sum().backward()
    assert bool((widened.picture[0].weight.grad[:, 4:] != 0).any())


def test_clean_and_noisy_are_not_mistaken_for_each_other(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="reads noisy latents with their time, not pictures: guide with it by Noisy"):
        LearnedImageReward(str(folder))
    scorer().save(tmp_path / "clean")
    with pytest.raises(ValueError, match="clean holds no reward model of noisy latents; train one with"):
        NoisyLatentReward(str(tmp_path / "clean"))
    with pytest.raises(ValueError, match="clip holds no ConvScorer, and CLIP reads no noisy latents"):
        load_scorer(str(tmp_path / "clip"), noisy=True)
    with pytest.raises(ValueError, match="which was not given"):
        scorer(time_input=True)(LATENTS, TEXTS)
    with pytest.raises(ValueError, match="takes no time"):
        scorer()(LATENTS, TEXTS, TIME)


def test_heads_are_weighed_when_it_is_used(folder) -> None:
    heads = load_conv_scorer(folder)(LATENTS, TEXTS, TIME)
    torch.testing.assert_close(NoisyLatentReward(str(folder)).score(LATENTS, TEXTS, TIME), heads.sum(1))
    weighed = NoisyLatentReward(str(folder), {"text": -2.0}).score(LATENTS, TEXTS, TIME)
    torch.testing.assert_close(weighed, -2 * heads[:, 1])
    with pytest.raises(ValueError, match="NoisyLatentReward.weights names 'sound'; the heads of .* are looks, text"):
        NoisyLatentReward(str(folder), {"sound": 1.0})


def test_its_gradient_is_that_of_finite_differences(folder) -> None:
    reward = NoisyLatentReward(str(folder)).double()
    way = torch.randn(LATENTS.shape, generator=torch.Generator().manual_seed(1)).double()
    leaf = LATENTS.double().requires_grad_()
    found = reward.scorer(leaf, TEXTS, TIME) @ reward.head_weights
    (gradient,) = torch.autograd.grad(found.sum(), leaf)

    def along(step: float) -> torch.Tensor:
        return (reward.scorer(LATENTS.double() + step * way, TEXTS, TIME) @ reward.head_weights).sum()

    expected = (along(1e-5) - along(-1e-5)) / 2e-5
    assert float((gradient * way).sum()) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("process", [RectifiedFlow("ode"), DDPM(torch.linspace(0.99, 0.01, 10))])
def test_times_of_a_process_become_shares(process, folder) -> None:
    reward = NoisyLatentReward(str(folder))
    time = process.quantile(TIME)
    share = TIME if isinstance(process, RectifiedFlow) else torch.tensor([0.2, 0.6, 1.0])
    found = reward.for_prompts(process, TEXTS)(LATENTS, time)
    torch.testing.assert_close(found, reward.score(LATENTS, TEXTS, share))


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="noisy.times is 'late'; expected uniform or logit_normal"):
        NoisyPairs("folder", "late")  # type: ignore[arg-type]
