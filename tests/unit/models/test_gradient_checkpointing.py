"""Gradient checkpointing changes memory and time, and no number."""

from typing import Any

import pytest
import torch

from prl.config import LoRA, ModelSource, Sampling
from prl.models.loading import load_backbone, load_causal_lm, load_scalar_classifier
from prl.rollouts.generate import generate
from prl.types import PromptBatch
from tests.helpers.tiny import tiny_tokenizer

IDS = torch.arange(5, 16).repeat(2, 1)
LOADERS = {"causal": load_causal_lm, "backbone": load_backbone, "classifier": load_scalar_classifier}


def load(kind: str, tiny_folder: Any, lora: bool, checkpointing: bool) -> Any:
    torch.manual_seed(0)  # adapters and a scalar head are new
    adapters = LoRA(rank=2) if lora else None
    source = ModelSource(path=str(tiny_folder), lora=adapters, gradient_checkpointing=checkpointing)
    return LOADERS[kind](source).train()


def passes(model: Any) -> list[int]:
    """Count the passes through the first layer's MLP."""
    count = [0]
    layer = next(module for name, module in model.named_modules() if name.endswith("layers.0.mlp"))
    layer.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count


def gradients(model: Any) -> dict[str, torch.Tensor]:
    output = model(input_ids=IDS, use_cache=False)
    hidden = output.last_hidden_state if hasattr(output, "last_hidden_state") else output.logits
    hidden.float().square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", LOADERS)
def test_gradients_are_equal_and_layers_run_twice(kind: str, lora: bool, tiny_folder: Any) -> None:
    plain, saving = (load(kind, tiny_folder, lora, checkpointing) for checkpointing in (False, True))
    counts = passes(plain), passes(saving)
    expected, found = gradients(plain), gradients(saving)
    assert counts == ([1], [2])
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None, name
        assert torch.equal(found[name], gradient), name


def test_a_frozen_model_runs_once(tiny_folder: Any) -> None:
    model = load("causal", tiny_folder, False, True).eval()
    count = passes(model)
    gradients(model)
    assert count == [1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_sampling_is_the_same(lora: bool, tiny_folder: Any) -> None:
    """In train mode transformers would take the cache away from layers that are given the newest token only."""
    prompt = PromptBatch(IDS, torch.ones_like(IDS, dtype=torch.bool), [[]] * 2, [("a",)] * 2)
    responses = []
    for checkpointing in (False, True):
        model = load("causal", tiny_folder, lora, checkpointing)
        torch.manual_seed(0)
        rollout = generate(model, tiny_tokenizer(), prompt, Sampling(max_new_tokens=12), end_ids=[1])
        responses.append(rollout.response_ids)
        assert model.training
    assert torch.equal(*responses)
