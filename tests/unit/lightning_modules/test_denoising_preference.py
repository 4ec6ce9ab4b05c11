"""Errors of pictures as log-probabilities: against a plain loop, and what is shared in a pair."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import DenoisingPreferenceModule
from prl.config import LoRA, ModelSource
from prl.data.image_encoding import COUNT
from prl.diffusion.draws import normal, uniform
from prl.diffusion.settings import NoiseDraws
from prl.objectives.preference import DPO, RankDPO, SimPO
from tests.helpers.pictures import PROMPTS, write_class_conditional, write_stable_diffusion_3

pytest.importorskip("diffusers")

KEYS = [(0, "train", 0, 7), (0, "train", 0, 2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("pipelines")
    flow = write_stable_diffusion_3(home / "flow", latent=False)
    return {
        "flow": flow,
        "other": write_stable_diffusion_3(home / "other", 1, latent=False),
        "classes": write_class_conditional(home / "classes"),
    }


def made(folder: Path, objective: Any = None, lora: LoRA | None = None, **settings: Any) -> Any:
    module: Any = DenoisingPreferenceModule(
        ModelSource(path=str(folder), lora=lora), objective, prompt_tokens=4, **settings
    )
    module.configure_model()
    module.batches_done = lambda: 0
    return module.train()


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def batch(channels: int = 3) -> dict[str, Any]:
    pixels = torch.rand(4, channels, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    prompts = list(PROMPTS[:2]) if channels == 3 else ["1", "2"]
    labels = {"targets": torch.ones(2), "weights": torch.ones(2), "index": torch.tensor([7, 2])}
    return {"prompts": prompts, "chosen": pixels[:2], "rejected": pixels[2:], **labels}


@pytest.mark.parametrize(("kind", "reduction"), [("flow", "mean"), ("flow", "sum"), ("classes", "mean")])
def test_a_plain_loop_gives_the_same_errors(kind, reduction, folders) -> None:
    """x_t, the prediction and its squared error, picture by picture."""
    module = made(folders[kind], noise=NoiseDraws(reduction=reduction))
    given = batch(3 if kind == "flow" else 1)
    pairs = module.score(given)
    times = uniform([("time", *key) for key in KEYS])
    noise = normal([("noise", *key) for key in KEYS], module.denoiser.latent_shape)
    for side in ("chosen", "rejected"):
        for row in range(2):
            clean, eps = given[side][row], noise[row]
            if kind == "flow":
                t = float(times[row])
                noisy, target, time = (1 - t) * clean + t * eps, eps - clean, torch.tensor([t]).double()
            else:
                step = int(times[row] * 1000)
                abar = module.denoiser.pipeline.scheduler.alphas_cumprod[step]
                noisy, target = abar.sqrt() * clean + (1 - abar).sqrt() * eps, eps
                time = torch.tensor([step])
            condition = module.denoiser.encode([given["prompts"][row]], torch.device("cpu"))
            found = module.denoiser.predict(module.model, noisy[None].float(), time, condition)[0]
            error = (found - target).square()
            expected = -0.5 * (error.mean() if reduction == "mean" else error.sum())
            torch.testing.assert_close(pairs.views[side].logprobs[row, 0], expected, rtol=1e-4, atol=1e-5)


def test_at_the_reference_the_loss_is_log_2_and_its_gradient_is_not_0(folders) -> None:
    module = made(folders["flow"], DPO(200.0))
    losses = module.objective.loss(module.score(batch()))
    torch.testing.assert_close(losses, torch.full((2,), 2.0).log())
    losses.mean().backward()
    assert any(parameter.grad.abs().max() > 0 for parameter in module.model.parameters() if parameter.grad is not None)
    assert all(parameter.grad is None for parameter in module.reference.parameters())


def test_with_adapters_the_reference_is_the_model_without_them(folders) -> None:
    lora = LoRA(rank=2, target_modules=["to_q", "to_v"])
    module, plain = made(folders["flow"], lora=lora), made(folders["flow"])
    assert module.reference is None
    for parameter in module.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted, expected = module.score(batch()), plain.score(batch())
    torch.testing.assert_close(adapted.chosen.ref_logprobs, expected.chosen.ref_logprobs)
    assert not torch.allclose(adapted.chosen.logprobs, expected.chosen.logprobs)


def test_another_reference_and_none(folders) -> None:
    other = made(folders["flow"], reference=ModelSource(path=str(folders["other"]))).score(batch())
    assert not torch.allclose(other.chosen.logprobs, other.chosen.ref_logprobs)
    without = made(folders["flow"], SimPO())
    assert without.reference is None
    assert without.score(batch()).chosen.ref_logprobs is None
    with pytest.raises(ValueError, match="reference"):
        made(folders["flow"], SimPO(), reference=ModelSource(path=str(folders["other"])))


def same_pictures(module: Any) -> list[list[float]]:
    """Errors of pairs whose two pictures are equal."""
    given = batch()
    pairs = module.score({**given, "rejected": given["chosen"]})
    return [pairs.chosen.logprobs[:, 0].tolist(), pairs.rejected.logprobs[:, 0].tolist()]


@pytest.mark.parametrize("share_noise", [True, False])
@pytest.mark.parametrize("share_time", [True, False])
def test_time_and_noise_are_shared_in_a_pair_where_asked(share_time, share_noise, folders) -> None:
    noise = NoiseDraws(share_time=share_time, share_noise=share_noise)
    chosen, rejected = same_pictures(made(folders["flow"], noise=noise))
    assert (chosen == pytest.approx(rejected, rel=1e-5)) == (share_time and share_noise)


def test_a_row_has_the_same_draws_in_whatever_batch_it_is(folders) -> None:
    module, given = made(folders["flow"]), batch()
    together = module.score(given)
    alone = {name: value[1:] for name, value in given.items()}
    torch.testing.assert_close(module.score(alone).chosen.logprobs, together.chosen.logprobs[1:], rtol=1e-5, atol=1e-6)
    module.batches_done = lambda: 1
    assert not torch.allclose(module.score(alone).chosen.logprobs, together.chosen.logprobs[1:])
    module.eval()  # validations always have the same draws
    first = module.score(alone).chosen.logprobs
    module.batches_done = lambda: 2
    assert torch.equal(module.score(alone).chosen.logprobs, first)


def test_a_dropped_prompt_is_that_of_the_whole_row(folders) -> None:
    module = made(folders["flow"], noise=NoiseDraws(prompt_dropout=0.999999))
    given = batch()
    dropped = module.score(given)
    empty = made(folders["flow"]).score({**given, "prompts": ["", ""]})
    torch.testing.assert_close(dropped.chosen.logprobs, empty.chosen.logprobs)
    module.eval()
    plain = made(folders["flow"]).eval().score(given)
    torch.testing.assert_close(module.score(given).chosen.logprobs, plain.chosen.logprobs)


def test_lists_of_pictures(folders) -> None:
    given = batch()
    given |= {
        "responses": torch.cat([given["chosen"], given["rejected"][:1]]),
        COUNT + "responses": torch.tensor([1, 2]),
    }
    given["column.rewards"] = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    pairs = made(folders["flow"], RankDPO(3.0)).score(given)
    assert pairs.views["responses"].mask[:, 0].tolist() == [True, False, True, True]
    assert pairs.views["responses"].logprobs[1, 0] == 0
    torch.testing.assert_close(pairs.views["responses"].logprobs[0], pairs.chosen.logprobs[0], rtol=1e-5, atol=1e-6)


def test_inverted_noise_lies_on_the_models_own_path(folders) -> None:
    """Its errors are smaller than those at random noise, for this model more than for another."""
    plain, inverted = (made(folders["flow"], noise=NoiseDraws(inversion_steps=steps)) for steps in (0, 20))
    own, random = inverted.score(batch()), plain.score(batch())
    assert (own.chosen.logprobs > random.chosen.logprobs).all()


def test_errors_of_velocities_and_of_clean_pictures_differ_by_the_square_of_the_time() -> None:
    """|x_1 - x_1'|² = (1 - t)² |v - v'|², by which Flow-DPO with beta (1 - t)² is Diffusion-DPO on x_1."""
    t, clean, noise, velocity = 0.25, 1.0, -1.0, -1.5
    noisy = (1 - t) * clean + t * noise
    predicted = noisy + (1 - t) * velocity  # where the straight line of this velocity ends, in noise
    assert (noise - predicted) ** 2 == pytest.approx(0.140625)
    assert (1 - t) ** 2 * ((noise - clean) - velocity) ** 2 == pytest.approx(0.140625)
