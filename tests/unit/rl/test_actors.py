"""Who speaks in a run of PPO: the reference, an older policy, and the judge that confirms a new anchor."""

from typing import Any

import pytest
import torch
from lightning import Trainer

from lightning_modules import PairwisePPOModule
from prl.config import LoRA, ModelSource, Resources, Sampling, Update
from prl.rewards import RuleReward
from prl.rl.sharding import Sharding
from prl.rollouts import LocalSampler, Sampler
from prl.types import PromptBatch
from tests.helpers.tiny import LengthJudge, PositionJudge, tiny_tokenizer

PROMPTS = ["reverse ab", "copy c", "sort dcab"]


def build(folder: Any, **settings: Any) -> Any:
    module: Any = PairwisePPOModule(
        ModelSource(path=str(folder), lora=settings.pop("lora", None)),
        LengthJudge(),
        sampling=Sampling(max_new_tokens=12, temperature=0.7),
        **settings,
    )
    module.configure_model()
    module.trainer = Trainer(accelerator="cpu", barebones=True)
    return module


def batch() -> PromptBatch:
    tokenizer = tiny_tokenizer()
    encoded = tokenizer([text + "\n" for text in PROMPTS], padding=True, return_tensors="pt")
    turns = [({"role": "user", "content": text},) for text in PROMPTS]
    return PromptBatch(encoded["input_ids"], encoded["attention_mask"].bool(), turns, [()] * len(PROMPTS))


def draws(sample: Any, *arguments: Any) -> Any:
    torch.manual_seed(3)
    return sample(*arguments)


def test_the_heldout_judge_confirms_where_there_is_one(tiny_folder: Any) -> None:
    turn = [({"role": "user", "content": "x"},)]
    alone, both = build(tiny_folder), build(tiny_folder, heldout_judge=PositionJudge(bias=2.0))
    assert alone.actors.second_opinion(turn, ["longer"], ["a"]).margin_ab.tolist() == [5.0]
    assert both.actors.second_opinion(turn, ["longer"], ["a"]).margin_ab.tolist() == [2.0]


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["full", "adapters"])
def test_an_older_policy_speaks_and_leaves_the_policy_as_it_was(tiny_folder: Any, lora: LoRA | None) -> None:
    module = build(tiny_folder, lora=lora)
    actors = module.actors
    before = draws(actors.sample_with_weights, actors.weights(), batch())
    older = actors.weights()
    with torch.no_grad():
        for parameter in module.policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    now = {name: weight.clone() for name, weight in actors.weights().items()}
    assert draws(actors.sample_with_weights, actors.weights(), batch()) != before
    assert draws(actors.sample_with_weights, older, batch()) == before
    assert all(torch.equal(weight, now[name]) for name, weight in actors.weights().items())


def test_weights_in_shards_and_settings_that_say_so_compute_again(
    tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper = LoRA(rank=2, target_modules=r"(.*\.)?layers\.1\..*_proj")
    settings: dict[str, Any] = {"update": Update(1, 1), "lora": upper}
    module, group = build(tiny_folder, **settings), [torch.arange(3)]
    assert [len(each) for each in module.actors.frozen] == [1, 1]  # of the policy, and of the critic's own backbone
    assert module.learns_from_scoring(group)
    assert not module.learns_from_scoring(group * 2)
    again = build(tiny_folder, **settings, resources=Resources(reuse_scoring=False, reuse_frozen_layers=False))
    assert again.actors.frozen == []
    assert not again.learns_from_scoring(group)
    for update in (Update(2, 1), Update(1, 2)):
        assert not build(tiny_folder, update=update).learns_from_scoring(group)
    monkeypatch.setattr(Sharding, "cuts_weights", True)
    module._build_actors()
    assert module.actors.frozen == []
    assert not module.learns_from_scoring(group)


def test_the_reference_below_adapters_says_what_the_start_says(tiny_folder: Any) -> None:
    plain, adapted = build(tiny_folder), build(tiny_folder, lora=LoRA(rank=2))
    with torch.no_grad():
        for name, parameter in adapted.policy.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    expected = draws(plain.actors.reference_responses, batch())
    assert draws(adapted.actors.reference_responses, batch()) == expected
    assert draws(lambda: adapted.actors.sample(batch()).texts) != expected


def test_responses_of_the_reference_are_stripped_like_the_anchors_of_a_file(
    tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build(tiny_folder)
    monkeypatch.setattr("prl.rollouts.generate.decode", lambda *_: ["\n a b ", "c", "  "])
    assert module.actors.reference_responses(batch()) == ["a b", "c", ""]
    assert module.actors.sample_with_weights(module.actors.weights(), batch()) == ["a b", "c", ""]


class Marking(Sampler):
    """Says which of its methods was called."""

    needs_anchors = True

    def sample(self, batch: PromptBatch, policy: Any) -> Any:
        return "to learn from"

    def answer(self, batch: PromptBatch, policy: Any) -> Any:
        return "to validate"


def test_a_sampler_knows_what_its_responses_are_for(tiny_folder: Any) -> None:
    module = build(tiny_folder, sampler=Marking())
    assert (module.actors.sample(batch()), module.generate(batch())) == ("to learn from",) * 2
    assert (module.actors.sample(batch(), training=False), module.generate(batch(), training=False)) == (
        "to validate",
        "to validate",
    )
    plain = draws(LocalSampler().answer, batch(), module.actors)
    assert torch.equal(plain.response_ids, draws(module.actors.generate, batch()).response_ids)


def test_a_sampler_that_reads_anchors_has_the_rows_checked_for_them(tiny_folder: Any) -> None:
    rewarded: dict[str, Any] = {"reward": RuleReward(), "max_prompt_length": 64}
    policy = ModelSource(path=str(tiny_folder))
    assert PairwisePPOModule(policy, sampler=Marking(), **rewarded).build_encoder().needs_anchors
    assert not PairwisePPOModule(policy, **rewarded).build_encoder().needs_anchors
