"""Heads, critics, hidden states and the exact KL of the preference stage, beside plain forward passes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from lightning_modules import PreferenceModule
from lightning_modules.optimizers import configure
from prl.config import CriticSettings, LoRA, ModelSource
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.models.token_kl import check_heads
from prl.objectives.preference import OREO, SPO, TreePO
from tests.helpers.preference import Logistic, WithStates
from tests.helpers.tiny import write_tiny_model
from tests.unit.lightning_modules.test_preference_module import PAIRS, SOURCE, batch_of, made


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """Make a reference that is not the policy."""
    return ModelSource(path=str(write_tiny_model(tmp_path_factory.mktemp("start"), seed=5)))


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Give heads, which start at zero, something to say."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))


def states_of(source: ModelSource, view: str) -> list[tuple[Tensor, Tensor]]:
    """Read each response alone, in float64: hidden states and log-probabilities of all tokens before each token."""
    model, tokenizer, found = load_causal_lm(source).double(), load_tokenizer(source), []
    for pair in PAIRS:
        prompt = tokenizer(pair.prompt[0]["content"] + "\n")["input_ids"]
        response = [*tokenizer(getattr(pair, view))["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            said = model(torch.tensor([prompt + response]), output_hidden_states=True)
        places = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
        found.append((said.hidden_states[-1][0, places], said.logits[0, places].log_softmax(-1)))
    return found


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_objectives_see_what_is_said_of_the_state_before_each_token(
    kind: Any, tiny_folder: Path, start: ModelSource
) -> None:
    settings = CriticSettings(kind, start if kind == "own" else None)
    module = made(tiny_folder, WithStates(), reference=start, critic=settings)
    critic = module.critic.head if kind == "own" else module.critic
    for part in (module.heads, critic):
        assert not any(each.any() for each in part.parameters())  # an untrained head says 0
        fill(part)
    pairs = module.score(batch_of(module))
    plain = made(tiny_folder, Logistic(), reference=start).score(batch_of(module))
    for name, view in pairs.views.items():
        torch.testing.assert_close(view.ref_logprobs, plain.views[name].ref_logprobs)
        assert torch.equal(view.logprobs, plain.views[name].logprobs)
        both = zip(states_of(module.source, name), states_of(start, name), strict=True)
        for row, ((hidden, logprobs), (others, ref_logprobs)) in enumerate(both):
            expected = {
                "hidden": hidden,
                "kl": (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1),
                "values": ((others if kind == "own" else hidden) @ critic.weight.double().T + critic.bias)[:, 0],
                **{each: hidden @ head.weight.double().T + head.bias for each, head in module.heads.items()},
            }
            for each, of_row in expected.items():
                found = view.of_states(each)
                assert found.requires_grad
                ours = found[row, : len(hidden)].double()
                torch.testing.assert_close(ours, of_row.detach(), atol=1e-5, rtol=1e-4)
                if each not in module.heads:
                    assert not found[row, len(hidden) :].any()
            torch.testing.assert_close(view.at_end("hidden")[row], view.hidden[row, len(hidden) - 1])


@pytest.mark.parametrize("kind", ["own", "shared", "adapter"])
@pytest.mark.parametrize("rank", [None, 2])
def test_policy_heads_and_critic_learn_and_the_reference_does_not(
    kind: Any, rank: int | None, tiny_folder: Path
) -> None:
    source = ModelSource(path=str(tiny_folder), lora=None if rank is None else LoRA(rank=rank))
    settings: Any = {"max_length": 64, "critic": CriticSettings(kind, learning_rate=0.5)}
    if kind == "adapter" and rank is None:
        with pytest.raises(ValueError, match="critic.kind: adapter puts adapters beside the policy's, which has none"):
            PreferenceModule(source, WithStates(), **settings)
        return
    module: Any = PreferenceModule(source, WithStates(), **settings)
    module.configure_model()
    module.log = module.log_dict = lambda *_, **__: None
    fill(module.critic if kind == "shared" else module.critic.head)
    pairs = module.score(batch_of(module))
    if rank is None:  # the same pass by the same weights
        assert torch.equal(pairs.chosen.logprobs, pairs.chosen.ref_logprobs)
        assert not pairs.chosen.kl.any()
    assert pairs.chosen.kl.abs().max() < 1e-6
    module.training_step(batch_of(module), 0).backward()
    module.on_after_backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    module._trainer = SimpleNamespace(max_steps=4, precision="32-true", strategy=None)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {group["name"]: group["lr"] for group in groups}
    assert {rate for name, rate in rates.items() if name.startswith("critic")} == {0.5}
    assert {rate for name, rate in rates.items() if name.startswith("model")} == {1e-6}
    given = [id(each) for group in groups for each in group["params"]]
    assert len(given) == len({*given}) == len([each for each in module.parameters() if each.requires_grad])
    assert module._optimizer_settings()["critic_learning_rate"] == 0.5


def test_an_objective_without_needs_has_no_further_parameter(tiny_folder: Path) -> None:
    module = made(tiny_folder, Logistic())
    assert (module.critic, [*module.heads.parameters()]) == (None, [])
    assert "critic_learning_rate" not in module._optimizer_settings()
    trainer: Any = SimpleNamespace(max_steps=4, precision="32-true", strategy=None)
    module._trainer = trainer
    usual = configure(module.model.parameters(), module.optimization, trainer)["optimizer"].param_groups
    for one, two in zip(module.configure_optimizers()["optimizer"].param_groups, usual, strict=True):
        assert [id(each) for each in one["params"]] == [id(each) for each in two["params"]]


LISTED = {"responses": ["b a c", "ab"], "rewards": [1.0, 0.0]}


@pytest.mark.parametrize("packed", ["on", "off"])
def test_steps_stand_beside_the_tokens_of_each_response(packed: Any, tiny_folder: Path) -> None:
    module = made(tiny_folder, TreePO(step_separator=" "), packed=packed)
    found = module.score(batch_of(module, [replace(pair, extra=LISTED) for pair in PAIRS]))
    of_list = found.views["responses"].steps
    assert of_list[0, :6].tolist() == [0, 0, 1, 1, 2, 2]  # five characters and the end
    assert not of_list[1].any()
    long = found.rejected.steps[1].tolist()
    assert long == [0] * 2 + [1] * 5 + [2] * 7 + [3] * 9  # "a much longer response"
    assert found.rejected.hidden.shape[:2] == found.rejected.steps.shape


def test_data_without_a_step_are_refused_before_training(tiny_folder: Path) -> None:
    def start(separator: str) -> None:
        module: Any = PreferenceModule(
            ModelSource(path=str(tiny_folder)), TreePO(step_separator=separator), max_length=64
        )
        encoder = module.build_encoder()
        rows = Dataset.from_list([encoder.encode(replace(pair, extra=LISTED)) for pair in PAIRS])
        module._trainer = SimpleNamespace(datamodule=SimpleNamespace(encoder=encoder, rows={"train": rows}))
        module.on_fit_start()

    start(" ")
    with pytest.raises(
        ValueError, match=r"step_separator '\\n' ends no step in the responses of the first 3 tr.*TreePO"
    ):
        start("\n")
    with pytest.raises(ValueError, match="TreePO.step_separator is empty; expected the text that ends a step"):
        start("")


def test_levels_are_read_from_rows(tiny_folder: Path) -> None:
    module = made(tiny_folder, SPO())
    extra = {"corrupted_chosen": "a", "corrupted_rejected": "b", "level_chosen": 2, "level_rejected": 0}
    batch = module.score(batch_of(module, [replace(pair, extra=extra) for pair in PAIRS]))
    assert batch.columns["level_chosen"].tolist() == [2, 2, 2]
    assert batch.views["corrupted_chosen"].outputs["degree"].shape[-1] == 4
    for wrong in (4, 0.5, -1):
        row = replace(PAIRS[0], extra={**extra, "level_chosen": wrong})
        with pytest.raises(
            ValueError, match=rf"{wrong} .no class.; expected a whole number from 0 to 3, which the obj"
        ):
            module.build_encoder().encode(row)
    other = PreferenceModule(module.source, SPO(levels=5), max_length=64).build_encoder()
    assert module.build_encoder().fingerprint != other.fingerprint


class Odd(Logistic):
    heads = {"values": 2}


class Empty(Logistic):
    heads = {"size": 0}


class Guided(Logistic):
    heads, guides = {"teacher": 1}, ("teacher",)


class Classes(Logistic):
    classes = {"grade": 3}


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        (Odd(), {}, "Odd declares the head 'values' of 2 outputs; expected a plain name, not hidden, values, kl"),
        (Empty(), {}, "Empty declares the head 'size' of 0 outputs; expected .* at least one output"),
        (
            Guided(),
            {"guides": {"teacher": SOURCE}},
            "Guided declares the head 'teacher' of 1 outputs; .* teacher",
        ),
        (Classes(), {}, "Classes declares the classes of 'grade', which is not among its columns"),
        (Logistic(), {"critic": CriticSettings()}, "critic is set, but Logistic needs no critic; leave it out"),
        (OREO(), {"critic": CriticSettings(value_coef=0.5)}, "critic.value_coef is 0.5, a setting of PPO; how .* OREO"),
        (OREO(), {"critic": CriticSettings(warmup=2)}, "critic.warmup is 2, a setting of PPO"),
        (OREO(), {"critic": CriticSettings("shared", SOURCE)}, "critic.model is set, but critic.kind: shared grows on"),
        (OREO(), {"reference_logprobs": "cached"}, "reference_logprobs is cached, .* but OREO reads the KL over the w"),
    ],
)
def test_needs_are_checked_before_anything_is_read(objective: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceModule(SOURCE, objective, **settings)


def test_without_the_kl_a_critic_goes_with_a_cached_reference() -> None:
    assert PreferenceModule(SOURCE, OREO(kl_coef=0), reference_logprobs="cached").critic_settings == CriticSettings()


def test_a_kl_between_vocabularies_or_behind_a_cap_is_refused(tiny_folder: Path, start: ModelSource) -> None:
    policy, other = load_causal_lm(ModelSource(path=str(tiny_folder))), load_causal_lm(start)
    check_heads(policy, other)
    other.config.final_logit_softcapping = 30.0
    with pytest.raises(
        ValueError, match="the reference, a .* changes logits .*final_logit_softcapping: 30.0., and the e"
    ):
        check_heads(policy, other)
    policy._prl_head_is_last = False
    with pytest.raises(ValueError, match="the policy, a .* .its config does not say how."):
        check_heads(policy, load_causal_lm(start))
    policy._prl_head_is_last = True
    policy.resize_token_embeddings(policy.get_input_embeddings().num_embeddings + 8)
    with pytest.raises(
        ValueError, match="the policy has a vocabulary of .* and the reference of .*, so there is no KL"
    ):
        check_heads(policy, load_causal_lm(start))
