"""Rejected pictures that the model in training makes itself: which network makes them, and what objectives read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import DenoisingPreferenceModule
from prl.config import LoRA, ModelSource
from prl.data.image_encoding import ChosenEncoder
from prl.data.rows.image_records import CaptionedImage
from prl.diffusion.draws import normal, uniform
from prl.diffusion.rejected import EarlierSelves, PolicyStates
from prl.diffusion.sampling import ImageSampling, Prompted, sample_latents
from prl.diffusion.settings import NoiseDraws
from prl.objectives.preference import DPO, DiffusionDRO, RankDPO, SePPO, SimPO
from tests.helpers.pictures import PROMPTS, write_stable_diffusion_3

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion_3(tmp_path_factory.mktemp("pipelines") / "flow", latent=False)


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def made(folder: Path, objective: Any, rejected: Any, lora: LoRA | None = None, **settings: Any) -> Any:
    source = ModelSource(path=str(folder), lora=lora)
    module: Any = DenoisingPreferenceModule(source, objective, rejected=rejected, prompt_tokens=4, **settings)
    module.configure_model()
    module.batches_done = lambda: 0
    return module.train()


def learn(module: Any, batches: int) -> None:
    """Let weights wander, with a snapshot wherever one is due."""
    for number in range(batches):
        module.rejected.begin_batch(number, 0, module.model)
        for place, parameter in enumerate(module.model.parameters()):
            if parameter.requires_grad:
                shift = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * number + place))
                parameter.data += 0.05 * shift


def batch() -> dict[str, Any]:
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    labels = {"targets": torch.ones(2), "weights": torch.ones(2), "index": torch.tensor([7, 2])}
    return {"prompts": list(PROMPTS[:2]), "chosen": pixels, **labels}


KEYS = [(0, "train", 0, 7), (0, "train", 0, 2)]
ADAPTERS = LoRA(rank=2, target_modules=["to_q", "to_v"])


@pytest.mark.parametrize("lora", [None, ADAPTERS])
def test_the_drawn_self_makes_the_pictures_and_is_the_reference(lora, flow) -> None:
    source = EarlierSelves(every=1, kept=5, sampling=ImageSampling(steps=3))
    module = made(flow, SePPO(10.0), source, lora)
    learn(module, 4)
    source.drawn, source._ready = 1, None
    found = module.score(batch())
    assert module.reference is None  # no other is read

    earlier = made(flow, SePPO(10.0), EarlierSelves(), lora)
    earlier.model.load_state_dict(source.pool[1], strict=False)
    denoiser, condition = earlier.denoiser, earlier.denoiser.encode(list(PROMPTS[:2]), torch.device("cpu"))
    start = normal([("rejected", *key) for key in KEYS], denoiser.latent_shape)
    pictures = sample_latents(denoiser.process, Prompted(denoiser, earlier.model, condition), start, 3)
    time = uniform([("time", *key) for key in KEYS])
    noise = normal([("noise", *key) for key in KEYS], denoiser.latent_shape)
    for side, clean in (("chosen", batch()["chosen"]), ("rejected", pictures)):
        state = denoiser.process.noisy(clean, noise, time)
        for network, logprobs in (
            (earlier.model, found.views[side].ref_logprobs),
            (module.model, found.views[side].logprobs),
        ):
            errors = state.errors(denoiser.predict(network, state.noisy, time, condition), "mean")
            torch.testing.assert_close(logprobs[:, 0], -0.5 * errors, rtol=1e-4, atol=1e-5)


def test_with_the_newest_self_the_loss_begins_as_that_of_self_play(flow) -> None:
    """SPIN-Diffusion is DPO against pictures of the newest self: at a snapshot ln 2, with the gradient of SePPO."""
    gradients = []
    for objective in (SePPO(50.0), DPO(50.0)):
        module = made(flow, objective, EarlierSelves(every=3, kept=1, sampling=ImageSampling(steps=3)))
        learn(module, 3)
        module.rejected.begin_batch(3, 0, module.model)
        losses = objective.loss(module.score(batch()))
        torch.testing.assert_close(losses, torch.full((2,), 2.0).log())
        losses.sum().backward()
        gradients.append([each.grad.clone() for each in module.model.parameters() if each.grad is not None])
    assert any(bool(each.abs().max() > 0) for each in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_at_its_snapshot_and_the_reference_a_policy_has_no_error_on_its_own_states(flow) -> None:
    """Both errors of a state are 0, so the loss is that of a difference of 0, and experts alone have a gradient."""
    module = made(flow, DiffusionDRO(0.001), PolicyStates(steps=3))
    module.rejected.begin_batch(0, 0, module.model)
    pairs = module.score(batch())
    torch.testing.assert_close(pairs.rejected.logprobs, torch.zeros(2, 1), atol=1e-9, rtol=0)
    assert torch.equal(pairs.rejected.log_ratio(), torch.zeros(2))
    assert torch.equal(pairs.chosen.log_ratio(), torch.zeros(2))
    losses = module.objective.loss(pairs)
    assert torch.equal(losses, torch.zeros(2))
    weights = [each for each in module.model.parameters() if each.requires_grad]
    for of, has_gradient in ((pairs.rejected.logprobs, False), (losses, True)):
        found = torch.autograd.grad(of.sum(), weights, retain_graph=True, allow_unused=True)
        assert (max(float(each.abs().max()) for each in found if each is not None) > 1e-4) == has_gradient


def test_a_policy_that_has_left_its_snapshot_has_errors_on_its_states(flow) -> None:
    module = made(flow, DiffusionDRO(0.001), PolicyStates(every=2, steps=3))
    learn(module, 2)
    pairs = module.score(batch())
    assert bool((pairs.rejected.logprobs < -1e-6).all())
    assert bool((pairs.rejected.ref_logprobs.abs() < 1e-9).all())  # the snapshot is the start


@pytest.mark.parametrize("source", [EarlierSelves(1, 3, ImageSampling(2)), PolicyStates(2, 4)])
def test_a_row_has_the_same_pictures_in_whatever_batch_it_is(source, flow) -> None:
    module, given = made(flow, DPO(50.0), source), batch()
    learn(module, 3)
    together, alone = module.score(given), module.score({name: each[1:] for name, each in given.items()})
    for side in ("chosen", "rejected"):
        for one, other in (
            (together.views[side].logprobs[1:], alone.views[side].logprobs),
            (together.views[side].ref_logprobs[1:], alone.views[side].ref_logprobs),
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_rows_are_of_prompt_and_image(flow) -> None:
    module = made(flow, SimPO(), PolicyStates(steps=2))
    assert module.record_type is CaptionedImage
    assert isinstance(module.build_encoder(), ChosenEncoder)
    assert module.score(batch()).rejected.ref_logprobs is None


class Shards:
    cuts_weights = True


@pytest.mark.parametrize(
    ("objective", "rejected", "settings", "said"),
    [
        (SePPO(), EarlierSelves(), {"reference": ModelSource(path="x")}, "reference is set, but EarlierSelves makes"),
        (RankDPO(), PolicyStates(), {}, "rejected is PolicyStates, .* but RankDPO reads 'responses' of each pair"),
        (DPO(), EarlierSelves(), {"noise": NoiseDraws(inversion_steps=2)}, "noise.inversion_steps is 2, .* leave it"),
    ],
)
def test_what_cannot_be_together_is_refused(objective, rejected, settings, said, flow) -> None:
    with pytest.raises(ValueError, match=said):
        DenoisingPreferenceModule(ModelSource(path=str(flow)), objective, rejected=rejected, **settings)


def test_weights_in_shards_are_refused_before_a_model_is_read(monkeypatch) -> None:
    module: Any = DenoisingPreferenceModule(ModelSource(path="no/such/folder"), SePPO(), rejected=EarlierSelves())
    monkeypatch.setattr(DenoisingPreferenceModule, "sharding", Shards())
    with pytest.raises(ValueError, match="rejected is EarlierSelves, which keeps whole weights .* use ddp, or zero2"):
        module.configure_model()
