"""Reward-weighted regression is training on pictures that count by their rewards."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import DenoisingModule
from prl.config import ModelSource
from tests.helpers.pictures import PROMPTS, write_stable_diffusion_3

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion_3(tmp_path_factory.mktemp("pipelines") / "flow", latent=False)


def loss_of(folder: Path, rewards: list[float], scale: float | None) -> tuple[float, torch.Tensor]:
    module: Any = DenoisingModule(ModelSource(path=str(folder)), reward_scale=scale, prompt_tokens=4)
    module.configure_model()
    module.batches_done, module.log = lambda: 0, lambda *args, **kwargs: None
    module.noise = type(module.noise)()  # no prompt is left out
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    batch = {"prompts": list(PROMPTS[:3]), "images": images, "index": torch.arange(3)}
    loss = module.training_step({**batch, "column.reward": torch.tensor(rewards)}, 0)
    loss.backward()
    return float(loss), module.model.proj_out.weight.grad


def test_equal_rewards_are_plain_training(folder) -> None:
    plain, weighted = loss_of(folder, [0.0] * 3, None), loss_of(folder, [0.7] * 3, 3.0)
    assert weighted[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(weighted[1], plain[1], rtol=1e-4, atol=1e-6)


def test_a_picture_counts_by_the_exponential_of_its_reward(folder) -> None:
    each = [loss_of(folder, [50.0 if n == row else 0.0 for n in range(3)], 1.0)[0] for row in range(3)]
    weights = torch.tensor([0.2, 1.0, -0.5]).mul(2.0).exp()
    expected = float((weights * torch.tensor(each)).sum() / weights.sum())
    assert loss_of(folder, [0.2, 1.0, -0.5], 2.0)[0] == pytest.approx(expected, rel=1e-4)


def test_a_scale_that_is_no_number_is_refused(folder) -> None:
    with pytest.raises(ValueError, match="reward_scale is inf; expected null or a finite number"):
        DenoisingModule(ModelSource(path=str(folder)), reward_scale=float("inf"))
