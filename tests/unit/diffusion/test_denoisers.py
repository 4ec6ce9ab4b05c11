"""Pipelines of diffusers as training reads them, with tiny random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prl.config import LoRA, ModelSource
from prl.diffusion import DDPM, RectifiedFlow
from prl.diffusion.denoisers import load_denoiser
from prl.diffusion.denoisers.base import process_of, repeated, rows_of
from prl.diffusion.sampling import Prompted, sample_latents
from prl.models.location import ModelNotFoundError
from tests.helpers.pictures import (
    write_class_conditional,
    write_stable_diffusion,
    write_stable_diffusion_3,
    write_wan,
)

pytest.importorskip("diffusers")

WRITERS = {
    "stable_diffusion": write_stable_diffusion,
    "stable_diffusion_3": write_stable_diffusion_3,
    "classes": write_class_conditional,
    "wan": write_wan,
}
FLOWS = ("stable_diffusion_3", "wan")
CLIP = [5, 8, 8]
PROMPTS = {"classes": ["1", "", "3"]}
TOKENS = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("pipelines")
    return {name: write(home / name) for name, write in WRITERS.items()}


@pytest.fixture(params=WRITERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(folder: Path, **settings: Any) -> tuple[Any, Any]:
    index = folder / "model_index.json"
    clip = CLIP if index.is_file() and "Wan" in index.read_text() else None
    return load_denoiser(ModelSource(path=str(folder), **settings), TOKENS, clip)


def inputs(kind: str, denoiser: Any) -> tuple[Any, ...]:
    prompts = PROMPTS.get(kind, ["a red circle", "", "a blue square"])
    noisy = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    time = denoiser.process.quantile(torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))
    return noisy, time, denoiser.encode(prompts, torch.device("cpu"))


def test_shapes_and_processes(kind, folders) -> None:
    denoiser, network = read(folders[kind])
    assert denoiser.image_shape == {"classes": (1, 8, 8), "wan": (3, 5, 8, 8)}.get(kind, (3, 8, 8))
    assert denoiser.latent_shape == {"classes": (1, 8, 8), "wan": (4, 3, 4, 4)}.get(kind, (4, 4, 4))
    assert isinstance(denoiser.process, RectifiedFlow if kind in FLOWS else DDPM)
    noisy, time, condition = inputs(kind, denoiser)
    assert denoiser.predict(network, noisy, time, condition).shape == noisy.shape
    assert denoiser.to_images(noisy).shape == (3, *denoiser.image_shape)
    assert denoiser.to_latents(torch.rand(3, *denoiser.image_shape)).shape == noisy.shape
    assert all(each.requires_grad for each in network.parameters())
    assert not any(each.requires_grad for each in denoiser.parameters())


def test_pictures_come_back_as_the_autoencoder_gives_them(kind, folders) -> None:
    """The scaling of latents is taken back, whatever it is; what it is, the pipelines' own loops tell."""
    denoiser, _ = read(folders[kind])
    images = torch.rand(2, *denoiser.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = denoiser.vae
    expected = images if vae is None else vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    torch.testing.assert_close(denoiser.to_images(denoiser.to_latents(images)), expected, atol=1e-5, rtol=1e-4)


def test_each_row_is_read_by_itself(kind, folders) -> None:
    denoiser, network = read(folders[kind])
    noisy, time, condition = inputs(kind, denoiser)
    together = denoiser.predict(network, noisy, time, condition)
    row = torch.tensor([2])
    alone = denoiser.predict(network, noisy[row], time[row], rows_of(condition, row))
    torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)
    assert repeated(condition, 2).popitem()[1].shape[0] == 6
    other = denoiser.predict(network, noisy, time, rows_of(condition, torch.tensor([1, 1, 1])))
    assert not torch.allclose(other[0], together[0])  # the prompt matters


def test_weights_of_another_type_are_called_in_it_and_times_keep_theirs(kind, folders) -> None:
    """A time of 987 is 988 in bfloat16."""
    exact, network = read(folders[kind])
    denoiser, rough = read(folders[kind], dtype="bfloat16", lora=LoRA(rank=2, target_modules=["to_q"]))
    noisy, _, condition = inputs(kind, exact)
    time = denoiser.process.quantile(torch.tensor([0.987] * 3, dtype=torch.float64))
    found = denoiser.predict(rough, noisy, time, inputs(kind, denoiser)[2])
    assert found.dtype == torch.float32
    seen: dict[str, torch.Tensor] = {}
    rough.get_base_model().register_forward_pre_hook(lambda module, args, given: seen.update(given), with_kwargs=True)
    denoiser.predict(rough, noisy, time, inputs(kind, denoiser)[2])
    assert seen["timestep"].tolist() == pytest.approx([987.0] * 3, abs=1e-3)
    expected = exact.predict(network, noisy, time, condition)
    assert float((found - expected).abs().mean()) < 0.05 * float(expected.abs().mean()) + 0.02


def test_dropout_is_off_and_stays_in_the_config(tmp_path) -> None:
    import json

    write_class_conditional(tmp_path)
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dropout": 0.5}))
    denoiser, network = read(tmp_path)
    call = inputs("classes", denoiser)
    assert torch.equal(denoiser.predict(network, *call), denoiser.predict(network, *call))
    denoiser.save(network, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "unet" / "config.json").read_text())["dropout"] == 0.5


def with_noise_in_adapters(network: Any) -> Any:
    torch.manual_seed(3)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("layers", [["to_q", "to_v"], pytest.param("all-linear", marks=pytest.mark.slow)])
def test_adapters_are_merged_or_written_alone_for_plain_diffusers(kind, layers, folders, tmp_path) -> None:
    from diffusers import DiffusionPipeline

    denoiser, network = read(folders[kind], lora=LoRA(rank=2, target_modules=layers))
    call = inputs(kind, denoiser)
    at_start = denoiser.predict(network, *call)
    learnt = denoiser.predict(with_noise_in_adapters(network), *call)
    assert not torch.allclose(learnt, at_start)
    denoiser.save(network, tmp_path / "whole")
    again, merged = read(tmp_path / "whole")
    torch.testing.assert_close(again.predict(merged, *call), learnt, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(denoiser.predict(network, *call), learnt)  # the network in memory stays as it is
    if kind == "classes":
        with pytest.raises(ValueError, match="a DDPMPipeline cannot load adapters alone"):
            denoiser.save(network, tmp_path / "adapters", merge=False)
        return
    denoiser.save(network, tmp_path / "adapters", merge=False)
    index = DiffusionPipeline.load_config(folders[kind])
    absent = {name: None for name, value in index.items() if value == [None, None]}
    plain = DiffusionPipeline.from_pretrained(folders[kind], **absent)
    plain.load_lora_weights(tmp_path / "adapters")
    found = denoiser.predict(getattr(plain, denoiser.part), *call)
    torch.testing.assert_close(found, learnt, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_equal_noise_gives_the_pictures_of_plain_diffusers(guidance, folders) -> None:
    """The pipeline's own loop, with the times that prl takes."""
    denoiser, network = read(folders["stable_diffusion_3"])
    noise = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(5))
    prompts = ["a red circle", "a blue square"]
    condition = denoiser.encode(prompts, torch.device("cpu"))
    predict = Prompted(denoiser, network.eval(), condition, denoiser.encode(["", ""], torch.device("cpu")), guidance)
    ours = denoiser.to_images(sample_latents(denoiser.process, predict, noise, 4))
    plain = denoiser.pipeline(
        **{"prompt": prompts, "guidance_scale": guidance, "latents": noise, "output_type": "pt"},
        **{"sigmas": denoiser.process.times(4)[:-1].tolist(), "num_inference_steps": 4},
        **{"height": 8, "width": 8, "max_sequence_length": TOKENS},
    ).images
    torch.testing.assert_close((ours + 1) / 2, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_equal_noise_gives_the_clips_of_plain_diffusers(guidance, folders, monkeypatch) -> None:
    """The loop of Wan's pipeline, whose sides are multiples of 16, by Euler steps with the times that prl takes."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    denoiser, network = load_denoiser(ModelSource(path=str(folders["wan"])), TOKENS, [5, 16, 16])
    assert denoiser.process.shift == 3.0
    scheduler, times = FlowMatchEulerDiscreteScheduler(), denoiser.process.times(4)
    plain_times = scheduler.set_timesteps
    monkeypatch.setattr(scheduler, "set_timesteps", lambda n, device: plain_times(sigmas=times[:-1], device=device))
    denoiser.pipeline.scheduler = scheduler
    noise = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(5))
    prompts = ["a red circle", "a blue square"]
    condition = denoiser.encode(prompts, torch.device("cpu"))
    predict = Prompted(denoiser, network.eval(), condition, denoiser.encode(["", ""], torch.device("cpu")), guidance)
    ours = denoiser.to_images(sample_latents(denoiser.process, predict, noise, 4))
    plain = denoiser.pipeline(
        **{"prompt": prompts, "guidance_scale": guidance, "latents": noise, "output_type": "pt"},
        **{"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 4, "max_sequence_length": TOKENS},
    ).frames
    torch.testing.assert_close((ours.movedim(2, 1) + 1) / 2, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (None, "makes clips, whose size it does not say"),
        ([6, 8, 8], "clip has 6 frames; expected 1 and a multiple of 2"),
        ([5, 6, 8], "clip is 6x8 pixels; expected multiples of 4"),
    ],
)
def test_clips_of_a_size_that_cannot_be_made_are_refused(clip, said, folders) -> None:
    with pytest.raises(ValueError, match=said):
        load_denoiser(ModelSource(path=str(folders["wan"])), TOKENS, clip)


def test_a_model_of_pictures_makes_no_clips(folders) -> None:
    with pytest.raises(ValueError, match="a StableDiffusion3Pipeline makes pictures"):
        load_denoiser(ModelSource(path=str(folders["stable_diffusion_3"])), TOKENS, CLIP)


def test_what_cannot_be_read_is_named(folders, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match="holds no model_index.json"):
        read(tmp_path / "empty")
    with pytest.raises(ValueError, match="model.tokenizer is a setting of language models"):
        read(folders["classes"], tokenizer="somewhere")
    denoiser, _ = read(folders["classes"])
    for prompt in ("a dog", "4", "-1"):
        with pytest.raises(ValueError, match="is no class; expected a whole number from 0 to 3"):
            denoiser.encode([prompt], torch.device("cpu"))


def test_a_scheduler_of_another_kind_is_refused() -> None:
    from diffusers import VQDiffusionScheduler

    with pytest.raises(ValueError, match="a VQDiffusionScheduler; expected one with alphas_cumprod"):
        process_of(VQDiffusionScheduler(num_vec_classes=4))


def test_a_pipeline_of_another_kind_is_refused(tmp_path) -> None:
    from diffusers import DDPMScheduler, PNDMPipeline, UNet2DModel

    unet = UNet2DModel(
        **{"sample_size": 8, "block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1},
        **{"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)},
    )
    try:
        pipeline = PNDMPipeline(unet=unet, scheduler=DDPMScheduler())
    except Exception:
        pytest.skip("this release of diffusers has no such pipeline")
    pipeline.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="expected one of StableDiffusionPipeline"):
        read(tmp_path / "other")
