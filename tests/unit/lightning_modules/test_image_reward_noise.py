"""A reward model of noisy latents in training: what both pictures of a pair share, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import ImageRewardModule
from prl.config import ModelSource
from prl.diffusion.draws import normal, uniform
from prl.diffusion.rewards.conv_scorer import ConvScorer
from prl.diffusion.settings import NoisyPairs
from tests.helpers.pictures import PROMPTS, tokenizer, write_stable_diffusion, write_stable_diffusion_3

pytest.importorskip("diffusers")

WRITERS = {"latents": write_stable_diffusion, "flow": write_stable_diffusion_3}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    for name, write in WRITERS.items():
        write(folder / name)
    torch.manual_seed(0)
    ConvScorer(tokenizer(), image_size=4, channels=4, width=8).save(folder / "scorer")
    ConvScorer(tokenizer(), image_size=8, width=8).save(folder / "pixels")
    return folder


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def made(home: Path, pipeline: str = "flow", **settings: Any) -> Any:
    module: Any = ImageRewardModule(
        ModelSource(path=str(home / "scorer")), noisy=NoisyPairs(str(home / pipeline)), **settings
    )
    module.configure_model()
    module.batches_done = lambda: 2
    for parameter in module.model.parameters():  # weights of the time are 0 at the start, and all scores nearly equal
        torch.nn.init.normal_(parameter, std=0.25)
    return module.train()


def batch() -> dict[str, Any]:
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return {"prompts": list(PROMPTS[:2]), "chosen": pixels[:2], "rejected": pixels[2:], "index": torch.tensor([7, 2])}


@pytest.mark.parametrize("pipeline", WRITERS)
def test_a_plain_loop_gives_the_same_margins(pipeline, home) -> None:
    module, given = made(home, pipeline), batch()
    margins = module._margins(given, module._times(given))
    process = module.denoiser.process
    for row, number in enumerate((7, 2)):
        key = (0, "train", 2, number)
        share, noise = uniform([("time", *key)]), normal([("noise", *key)], (4, 4, 4))
        scores = []
        for side in ("chosen", "rejected"):
            latents = module.denoiser.to_latents(given[side][row : row + 1])
            noisy = process.corrupt(latents, noise, process.quantile(share))
            told = share if pipeline == "flow" else (process.quantile(share) + 1) / 1000
            scores.append(module.model(noisy.float(), given["prompts"][row : row + 1], told))
        torch.testing.assert_close(margins[row : row + 1], scores[0] - scores[1], rtol=1e-3, atol=1e-4)


def test_equal_pictures_have_no_margin(home) -> None:
    """One noise and one time for both; those of validations are always the same."""
    module, given = made(home), batch()
    given["rejected"] = given["chosen"]
    assert module._margins(given, module._times(given)).abs().max() == 0
    module.eval()
    assert torch.equal(module._times(given), uniform([("time", 0, "validation", row) for row in (7, 2)]))


def test_the_pipeline_is_not_in_checkpoints(home) -> None:
    module = made(home, "latents")
    saved = module.state_dict().keys() - module.frozen_names()
    assert {name.partition(".")[0] for name in saved} <= {"model", "_scorer"}
    assert any(name.startswith("model.noisy") for name in module.inputs())


def test_what_does_not_fit_is_refused_before_training(home) -> None:
    noisy = NoisyPairs(str(home / "flow"))
    module: Any = ImageRewardModule(ModelSource(path=str(home / "pixels")), noisy=noisy)
    with pytest.raises(ValueError, match=r"reads \[3, 8, 8\], and latents of .*flow have the shape \[4, 4, 4\]"):
        module.build_encoder()
    with pytest.raises(ValueError, match="image_size is 8, and the pipeline of noisy has a size of its own"):
        ImageRewardModule(ModelSource(path=str(home / "pixels")), image_size=8, noisy=noisy)
    assert made(home).build_encoder().shape == (3, 8, 8)
