"""Guidance as a setting of samplers, against the formulas put together by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prl.config import ModelSource
from prl.diffusion.denoisers import load_denoiser
from prl.diffusion.guidance import NegativeGuided, RewardGuided
from prl.diffusion.guides import NegativeGuide, RewardGuide
from prl.diffusion.rewards import NoisyLatentReward
from prl.diffusion.rewards.conv_scorer import ConvScorer
from prl.diffusion.sampling import Prompted
from tests.helpers.pictures import PROMPTS, tokenizer, write_class_conditional, write_stable_diffusion_3, write_wan

pytest.importorskip("diffusers")

TEXTS, CPU = list(PROMPTS[:2]), torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guides")
    write_stable_diffusion_3(folder / "flow", latent=False)
    write_stable_diffusion_3(folder / "worse", 1, latent=False)
    write_stable_diffusion_3(folder / "latents")
    write_class_conditional(folder / "classes")
    torch.manual_seed(0)
    ConvScorer(tokenizer(), image_size=8, width=8, time_input=True).save(folder / "reward")
    return folder


def parts(home: Path) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    denoiser, network = load_denoiser(ModelSource(path=str(home / "flow")), 0)
    noisy = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    predict = Prompted(denoiser, network.requires_grad_(False), denoiser.encode(TEXTS, CPU))
    return denoiser, predict, noisy, torch.tensor([0.3, 0.8]).double()


def test_by_a_reward(home) -> None:
    denoiser, predict, noisy, time = parts(home)
    found = RewardGuide(str(home / "reward"), 2.0, {"quality": 3.0}).around(predict, denoiser, TEXTS, CPU)(noisy, time)
    reward = NoisyLatentReward(str(home / "reward")).for_prompts(denoiser.process, TEXTS)
    torch.testing.assert_close(found, RewardGuided(denoiser.process, predict, reward, 6.0)(noisy, time))
    assert not torch.allclose(found, predict(noisy, time))


@pytest.mark.parametrize("prompted", [False, True])
def test_away_from_a_worse_network(prompted, home) -> None:
    denoiser, predict, noisy, time = parts(home)
    found = NegativeGuide(str(home / "worse"), 2.0, prompted).around(predict, denoiser, TEXTS, CPU)(noisy, time)
    _, worse = load_denoiser(ModelSource(path=str(home / "worse")), 0)
    condition = denoiser.encode(TEXTS if prompted else ["", ""], CPU)
    expected = NegativeGuided(predict, Prompted(denoiser, worse, condition), 2.0)(noisy, time)
    torch.testing.assert_close(found, expected)


def test_away_from_the_model_itself_changes_nothing(home) -> None:
    denoiser, predict, noisy, time = parts(home)
    found = NegativeGuide(str(home / "flow"), 6.5, prompted=True).around(predict, denoiser, TEXTS, CPU)(noisy, time)
    torch.testing.assert_close(found, predict(noisy, time), rtol=1e-4, atol=1e-5)


def test_a_worse_network_has_the_type_of_the_model_and_the_size_of_its_clips(home, tmp_path) -> None:
    rough, network = load_denoiser(ModelSource(path=str(home / "flow"), dtype="bfloat16"), 0)
    assert NegativeGuide(str(home / "worse")).network_for(rough).dtype == torch.bfloat16
    noisy, time = torch.zeros(2, 3, 8, 8), torch.tensor([0.3, 0.8]).double()
    predict = Prompted(rough, network, rough.encode(TEXTS, CPU))
    assert NegativeGuide(str(home / "worse")).around(predict, rough, TEXTS, CPU)(noisy, time).isfinite().all()
    video, _ = load_denoiser(ModelSource(path=str(write_wan(tmp_path))), 6, [5, 8, 8])
    assert NegativeGuide(str(tmp_path)).network_for(video) is not None


@pytest.mark.parametrize(("folder", "said"), [("classes", "a pipeline of ClassConditional"), ("latents", "latents of")])
def test_a_worse_network_of_another_kind_is_refused(folder, said, home) -> None:
    denoiser, _ = load_denoiser(ModelSource(path=str(home / "flow")), 0)
    with pytest.raises(ValueError, match=said):
        NegativeGuide(str(home / folder)).network_for(denoiser)


def test_what_cannot_guide_is_refused(home) -> None:
    with pytest.raises(ValueError, match="flow holds no reward model of noisy latents"):
        RewardGuide(str(home / "flow"))
    with pytest.raises(ValueError, match="NegativeGuide.weight is inf; expected a finite number"):
        NegativeGuide(str(home / "worse"), float("inf"))
    classes, network = load_denoiser(ModelSource(path=str(home / "classes")))
    predict = Prompted(classes, network, classes.encode(["1"], CPU))
    with pytest.raises(ValueError, match="RewardGuided guides flows, and this process is a DDPM"):
        RewardGuide(str(home / "reward")).around(predict, classes, ["1"], CPU)
