"""PPD: without a user it is Diffusion-DPO at its start, and with users it can learn what they disagree on."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules import DenoisingPreferenceModule, PersonalizedPreferenceModule
from prl.config import LoRA, ModelSource
from prl.data import DataError
from prl.data.rows.image_records import ImagePair
from prl.data.rows.row_errors import RowError
from prl.diffusion.user_attention import attentions_of
from prl.diffusion.users import UserExamples
from prl.objectives.preference import DPO
from tests.helpers.pictures import PROMPTS, tokenizer, write_stable_diffusion_3

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from prl.diffusion.rewards.conv_scorer import ConvScorer

    folder = tmp_path_factory.mktemp("pictures")
    write_stable_diffusion_3(folder / "flow", latent=False)
    torch.manual_seed(0)
    ConvScorer(tokenizer(), image_size=8, width=8).save(folder / "scorer")
    np.save(folder / "all.npy", np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8))
    rows = [
        {
            "user": user,
            "prompt": PROMPTS[0],
            "chosen": f"all.npy#{2 * n + turned}",
            "rejected": f"all.npy#{2 * n + 1 - turned}",
        }
        for turned, user in enumerate(("ann", "bob"))
        for n in range(2)
    ]
    (folder / "users.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def placed(module: Any) -> Any:
    module.configure_model()
    module.batches_done = lambda: 0
    return module.train()


def made(home: Path, flow: Path | None = None, lora: LoRA | None = None, **settings: Any) -> Any:
    users = UserExamples(str(home / "users.jsonl"), str(home / "scorer"), 2)
    source = ModelSource(path=str(flow or home / "flow"), lora=lora)
    return placed(PersonalizedPreferenceModule(source, users, objective=DPO(200.0), prompt_tokens=4, **settings))


def plain(home: Path) -> Any:
    return placed(DenoisingPreferenceModule(ModelSource(path=str(home / "flow")), DPO(200.0), prompt_tokens=4))


def learnt(module: Any) -> Any:
    for part in attentions_of(module.model).values():
        torch.nn.init.normal_(part.to_v.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return module


def batch() -> dict[str, Any]:
    """Make the same two pairs by two users who disagree."""
    pixels = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    labels = {"targets": torch.ones(4), "weights": torch.ones(4), "index": torch.tensor([7, 2, 7, 2])}
    sides = {"chosen": torch.cat([pixels[0], pixels[1]]), "rejected": torch.cat([pixels[1], pixels[0]])}
    return {"prompts": [*PROMPTS[:2]] * 2, **sides, "users": ["ann", "ann", "bob", "bob"], **labels}


def test_at_the_start_it_is_diffusion_dpo_and_its_loss_log_2(home) -> None:
    module = made(home, user_dropout=0.0)
    assert module.reference is None  # one network
    found, expected = module.score(batch()), plain(home).score(batch())
    for side in ("chosen", "rejected"):
        torch.testing.assert_close(found.views[side].logprobs, expected.views[side].logprobs, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.views[side].ref_logprobs, expected.views[side].ref_logprobs, atol=1e-6, rtol=0)
    losses = module.objective.loss(found)
    torch.testing.assert_close(losses, torch.full((4,), 2.0).log(), atol=1e-6, rtol=0)
    losses.mean().backward()
    parts = attentions_of(module.model).values()
    assert all(part.to_v.weight.grad.abs().max() > 0 for part in parts)


def test_the_reference_stays_the_base_and_so_does_a_row_without_its_user(home) -> None:
    expected = plain(home).score(batch()).chosen.logprobs
    module = learnt(made(home, user_dropout=0.0))
    found = module.score(batch()).chosen
    torch.testing.assert_close(found.ref_logprobs, expected, atol=1e-6, rtol=0)
    assert not torch.allclose(found.logprobs, expected, atol=1e-4)
    dropped = learnt(made(home, user_dropout=0.999999))
    torch.testing.assert_close(dropped.score(batch()).chosen.logprobs, expected, atol=1e-6, rtol=0)
    for each in (module, dropped):  # validations leave none out
        each.eval()
    torch.testing.assert_close(dropped.score(batch()).chosen.logprobs, module.score(batch()).chosen.logprobs)


def test_the_share_left_out_is_drawn_by_row(home) -> None:
    module = learnt(made(home, user_dropout=0.5))
    keys = [(0, "train", 0, row) for row in range(400)]
    left_out = (module._left_out(torch.ones(400, 2, 3), keys) == 0).all(2).all(1)
    assert 0.4 < float(left_out.float().mean()) < 0.6
    again = module._left_out(torch.ones(2, 2, 3), keys[-2:]) == 0
    assert again[:, 0, 0].tolist() == left_out[-2:].tolist()


def trained(module: Any) -> float:
    """Mean loss of the pairs and their opposites after some steps on them."""
    optimizer = torch.optim.Adam([each for each in module.model.parameters() if each.requires_grad], lr=3e-3)
    for _ in range(40):
        loss = module.objective.loss(module.score(batch())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(module.objective.loss(module.score(batch())).mean().detach())


def test_opposite_users_are_learnt_where_their_comparisons_are_read(home) -> None:
    """No model without users is below log 2 on pairs and their opposites: softplus(m) + softplus(-m) >= 2 log 2."""
    assert trained(plain(home)) >= math.log(2) - 1e-6
    assert trained(made(home, user_dropout=0.0)) < 0.3


def test_pictures_are_made_for_the_user_of_the_row(home) -> None:
    module = learnt(made(home))
    keys = [("validation", 0)] * 3
    first, second, third = module.pictures.make([PROMPTS[0]] * 3, keys, ["ann", "bob", "ann"])
    nobody = module.pictures.make([PROMPTS[0]], keys[:1])[0]
    torch.testing.assert_close(first, third, atol=1e-5, rtol=0)
    assert not torch.allclose(first, second, atol=1e-3)
    expected = plain(home).pictures.make([PROMPTS[0]], keys[:1])[0]
    torch.testing.assert_close(nobody, expected, atol=1e-5, rtol=0)


def test_an_exported_folder_is_the_base_beside_what_users_change_and_learns_on(home, tmp_path) -> None:
    from prl.diffusion.denoisers import load_denoiser

    module = learnt(made(home, user_dropout=0.0))
    module.export(tmp_path / "whole")
    with pytest.raises(ValueError, match="no adapters to write alone"):
        module.export(tmp_path / "alone", merge=False)
    base = load_denoiser(ModelSource(path=str(home / "flow")), 4)[1]
    again = load_denoiser(ModelSource(path=str(tmp_path / "whole")), 4)[1]
    assert all(torch.equal(each, base.get_parameter(name)) for name, each in again.named_parameters())
    found, expected = made(home, tmp_path / "whole", user_dropout=0.0).score(batch()), module.score(batch())
    torch.testing.assert_close(found.chosen.logprobs, expected.chosen.logprobs)
    torch.testing.assert_close(found.chosen.ref_logprobs, expected.chosen.ref_logprobs)


def test_what_a_checkpoint_holds_and_a_resume_compares(home) -> None:
    module = made(home)
    buffers = {name for name, _ in module.named_buffers()}
    kept = module.state_dict().keys() - module.frozen_names() - buffers
    assert kept == {f"model.{name}.{key}.weight" for name in attentions_of(module.model) for key in ("to_k", "to_v")}
    assert {"model.users.examples", "model.users.features/conv_scorer.safetensors"} <= module.inputs().keys()


def test_settings_and_rows_that_cannot_work_are_refused(home) -> None:
    with pytest.raises(ValueError, match="user_dropout is 1.0; expected at least 0 and below 1"):
        made(home, user_dropout=1.0)
    with pytest.raises(ValueError, match=r"model.lora is set, but PersonalizedPreferenceModule"):
        made(home, lora=LoRA(rank=2, target_modules=["to_q"]))
    with pytest.raises(DataError, match="users.per_user"):
        PersonalizedPreferenceModule(
            ModelSource(path=str(home / "flow")), UserExamples(str(home / "users.jsonl"), str(home / "scorer"), 3)
        ).build_encoder()
    encoder = made(home).build_encoder()
    prompt = ({"role": "user", "content": PROMPTS[0]},)
    with encoder.reading(home):
        row = encoder.encode(ImagePair(prompt, "all.npy#0", "all.npy#1", extra={"user": "bob"}))
        assert encoder.collate([row])["users"] == ["bob"]
        with pytest.raises(RowError, match="field 'user': found 'eve' .unknown user.; expected one of the 2 users of"):
            encoder.encode(ImagePair(prompt, "all.npy#0", "all.npy#1", extra={"user": "eve"}))
        with pytest.raises(RowError, match="name or number of a user in every row"):
            encoder.encode(ImagePair(prompt, "all.npy#0", "all.npy#1"))
    plain_encoder = plain(home).build_encoder()
    assert plain_encoder.fingerprint != encoder.fingerprint
