"""Training reads both orders of a pair in one row: loss, gradients and metrics are those of two rows."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_modules import GenerativeRewardModule
from prl.config import ModelSource
from prl.data import PreferencePair
from prl.judge.template import JudgeTemplate
from prl.models.prefix_sharing.packing import CostModel
from prl.models.prefix_sharing.tree_attention import packed_logits
from prl.objectives.reward import Pairwise
from tests.helpers.numbers import assert_same_numbers

TEMPLATES = {
    "prompt first": "p {{ prompt }} 1 {{ response_a }} 2 {{ response_b }} best",
    "prompt last": "1 {{ response_a }} 2 {{ response_b }} p {{ prompt }} best",
    "nothing first": "{{ response_a }} 2 {{ response_b }} p {{ prompt }} best",
}
PAIRS = [
    PreferencePair(({"role": "user", "content": prompt},), chosen, rejected, **more)
    for prompt, chosen, rejected, more in [
        ("a long question: reverse the letters dcab", "bacd", "bcad", {}),  # the responses begin alike
        ("short", "dcab", "a response with more words", {"weight": 2.0}),
        ("another question", "x", "yz", {"preference": 0.7}),
    ]
]


def make(folder: Any, fused: str, template: str = "prompt first", **settings: Any) -> Any:
    text = JudgeTemplate(text=TEMPLATES[template], chat=False)
    module: Any = GenerativeRewardModule(ModelSource(path=str(folder)), text, max_length=128, fused=fused, **settings)
    module.configure_model()
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.__setitem__(name, float(value))  # there is no trainer
    return module


def batch_of(module: Any, pairs: list[PreferencePair]) -> dict[str, Any]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(pair) for pair in pairs])


def step(module: Any, pairs: list[PreferencePair] = PAIRS) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step."""
    torch.manual_seed(1)  # order: random draws
    loss = module.training_step(batch_of(module, pairs), 0)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"objective": Pairwise(consistency_coef=0.5, language_coef=0.5)}, {"text_coef": 0.7}, {"order": "random"}],
    ids=["verdict", "all verdict terms", "text", "random order"],
)
def test_a_step_is_the_same_fused_and_plain(tiny_folder, template, settings) -> None:
    plain, fused = (make(tiny_folder, mode, template, **settings) for mode in ("off", "on"))
    (expected, expected_gradients), (found, gradients) = step(plain), step(fused)
    assert found == pytest.approx(expected, abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    assert max(float(each.abs().max()) for each in expected_gradients.values()) > 0.01
    for name, gradient in expected_gradients.items():
        assert_same_numbers(gradients[name], gradient, msg=name)
    for name in plain.logged.keys() - {"perf/saved_tokens"}:
        assert fused.logged[name] == pytest.approx(plain.logged[name], abs=1e-5), name


def test_both_ways_are_really_taken(tiny_folder, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(
        "lightning_modules.generative_reward.packed_logits", lambda *args: calls.append(1) or packed_logits(*args)
    )
    plain, fused = make(tiny_folder, "off"), make(tiny_folder, "on")
    step(plain)
    assert not calls
    step(fused)
    assert len(calls) == 1
    fused.verdict(batch_of(fused, PAIRS))
    assert len(calls) == 2
    assert "packed" not in batch_of(plain, PAIRS)
    assert plain.prefix_sharing.tokens.cached_token_fraction == 0
    assert fused.logged["perf/saved_tokens"] == fused.prefix_sharing.tokens.cached_token_fraction > 0.1


def test_swapping_the_responses_swaps_the_branches(tiny_folder) -> None:
    module = make(tiny_folder, "on")
    swapped = [PreferencePair(pair.prompt, pair.rejected, pair.chosen) for pair in PAIRS]
    there, back = (module.verdict(batch_of(module, pairs)) for pairs in (PAIRS, swapped))
    assert_same_numbers(there.margin_ab, back.margin_ba)
    assert_same_numbers(there.margin_ba, back.margin_ab)
    assert_same_numbers(there.win_logit, -back.win_logit)
    assert (there.margin_ab - there.margin_ba).abs().min() > 1e-3
    one, other = (batch_of(module, pairs)["packed"] for pairs in (PAIRS[:1], swapped[:1]))
    shared = int((one.num_readers(torch.zeros(2, dtype=torch.long)) == 2).sum())
    assert torch.equal(one.input_ids[0, :shared], other.input_ids[0, :shared])
    assert sorted(one.input_ids[0].tolist()) == sorted(other.input_ids[0].tolist())


def test_the_padded_shapes_decide(tiny_folder) -> None:
    """Pairs that share much are read packed, but not beside one whose long responses make every packed row wide."""
    module = make(tiny_folder, "auto")
    module.prefix_sharing._cost_model = lambda model: CostModel(overhead=0.2)
    sharing = [PreferencePair(({"role": "user", "content": "q" * 40},), chosen, "z") for chosen in "abc"]
    long = PreferencePair(({"role": "user", "content": "q"},), "a" * 30, "b" * 30)
    for pairs, fused in ((sharing, True), ([*sharing, long], False)):
        batch, before = batch_of(module, pairs), replace(module.prefix_sharing.tokens)
        module.verdict(batch)
        packed, after = batch["packed"], module.prefix_sharing.tokens
        read = packed.input_ids if fused else batch["input_ids"]
        assert after.positions - before.positions == read.numel()
        assert after.computed - before.computed == (packed.num_tokens if fused else packed.num_plain_tokens)
        assert after.plain - before.plain == packed.num_plain_tokens == batch["attention_mask"].sum()
