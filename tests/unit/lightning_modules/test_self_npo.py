"""Self-NPO: what its network is taught, by whom, and how the teacher follows."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import SelfNPOModule
from prl.config import LoRA, ModelSource
from prl.diffusion.draws import normal, uniform
from prl.diffusion.sampling import Prompted
from prl.diffusion.truncated import Truncation
from tests.helpers.pictures import PROMPTS, write_class_conditional, write_stable_diffusion_3

pytest.importorskip("diffusers")

BATCH = {"prompts": list(PROMPTS[:3]), "index": torch.tensor([4, 0, 7])}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("pipelines")
    flow = write_stable_diffusion_3(home / "flow", latent=False)
    return {"flow": flow, "classes": write_class_conditional(home / "classes")}


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def made(folder: Path, lora: LoRA | None = None, **settings: Any) -> Any:
    module: Any = SelfNPOModule(ModelSource(path=str(folder), lora=lora), prompt_tokens=4, **settings)
    module.configure_model()
    return module.train()


@pytest.mark.parametrize("kind", ["flow", "classes"])
def test_a_plain_loop_gives_the_same_errors(kind, folders) -> None:
    """Row by row: steps without the prompt, the estimate, more noise, the network with the prompt."""
    module, settings = made(folders[kind], truncation=Truncation(grid=6, steps=3)), Truncation(grid=6, steps=3)
    batch = BATCH if kind == "flow" else {**BATCH, "prompts": ["1", "2", "3"]}
    found = module._errors(batch, "train", 5)
    denoiser, process = module.denoiser, module.denoiser.process
    for row, index in enumerate(batch["index"].tolist()):
        key = (0, "train", 5, index)
        latents, noise = (normal([(name, *key)], denoiser.latent_shape) for name in ("start", "noise"))
        count = 1 + int(3 * float(uniform([("steps", *key)])))
        null, told = (denoiser.encode([text], torch.device("cpu")) for text in ("", batch["prompts"][row]))
        weak, strong = Prompted(denoiser, module.teacher, null), Prompted(denoiser, module.model, told)
        times = process.times(6)
        with torch.no_grad():
            for step in range(count):
                now, then = times[step, None], times[step + 1, None]
                latents = process.move(latents, weak(latents, now), now, then)
            target, _ = process.split(latents, weak(latents, times[count, None]), times[count, None])
        later = process.later(times[count, None], uniform([("later", *key)]))
        noisy = process.renoise(latents, noise, times[count, None], later)
        clean, _ = process.split(noisy, strong(noisy, later), later)
        expected = settings.error(clean, target)[0]
        torch.testing.assert_close(found[row], expected, rtol=2e-4, atol=1e-6)


def test_without_guidance_the_teacher_reads_no_prompt(folders) -> None:
    """Factor w = -1 of the authors' code: prompted + w (prompted - null) is the prediction without a prompt."""
    module = made(folders["flow"])
    denoiser, device = module.denoiser, torch.device("cpu")
    told, null = (denoiser.encode(texts, device) for texts in (PROMPTS[:2], ["", ""]))
    noisy, time = torch.randn(2, 3, 8, 8), torch.full((2,), 0.5)
    alone = Prompted(denoiser, module.teacher, null)(noisy, time)
    torch.testing.assert_close(Prompted(denoiser, module.teacher, told, null, 0.0)(noisy, time), alone)
    prompted = Prompted(denoiser, module.teacher, told)(noisy, time)
    torch.testing.assert_close(prompted - (prompted - alone), alone)
    assert not torch.allclose(prompted, alone)
    guided = made(folders["flow"], truncation=Truncation(guidance=2.0))._errors(BATCH, "train", 0)
    assert not torch.allclose(guided, made(folders["flow"])._errors(BATCH, "train", 0))


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, alpha=4, target_modules=["to_q"])])
def test_the_teacher_begins_as_the_network_and_follows_it(lora, folders) -> None:
    module = made(folders["flow"], lora, teacher_decay=0.75)
    assert not any(each.requires_grad for each in module.teacher.parameters())
    learning = {name: weight for name, weight in module.model.named_parameters() if weight.requires_grad}
    teacher = dict(module.teacher.named_parameters())
    assert all(torch.equal(teacher[name], weight) for name, weight in module.model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in learning.items()}
    with torch.no_grad():
        for weight in learning.values():
            weight.add_(1.0)
    module.average()
    for name, weight in module.model.named_parameters():
        torch.testing.assert_close(teacher[name], before[name] + 0.25 if name in before else weight)
    saved = dict(module.named_parameters()).keys() - module.frozen_names()
    assert saved == {f"{part}.{name}" for part in ("model", "teacher") for name in learning}


def test_the_network_learns_and_the_teacher_has_no_gradient(folders) -> None:
    module = made(folders["flow"])
    module._errors(BATCH, "train", 0).mean().backward()
    assert any(bool((each.grad != 0).any()) for each in module.model.parameters() if each.grad is not None)
    assert all(each.grad is None for each in module.teacher.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay, folders) -> None:
    with pytest.raises(ValueError, match=f"teacher_decay is {decay}; expected at least 0 and below 1"):
        SelfNPOModule(ModelSource(path=str(folders["flow"])), teacher_decay=decay)
