"""A judge that is adapters on the policy's base model says what it says alone, and the policy notices nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.config import LoRA, ModelSource
from prl.judge import ComparisonEncoder, GenerativeJudge, JudgeTemplate
from prl.judge.files import save_judge
from prl.models.adapters import ADAPTERS
from prl.models.critic import AdapterCritic
from prl.models.loading import load_causal_lm, save_model
from prl.rewards.base import load_frozen
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import tiny_tokenizer, write_tiny_model

TEMPLATE = JudgeTemplate("{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?", chat=False)
QUESTIONS = [[{"role": "user", "content": text}] for text in ("ab", "a longer question", "c")]
A, B = ["one", "the second response", "3"], ["xy", "an anchor", "zzzzzz"]
IDS = torch.arange(5, 16).repeat(2, 1)


def adapted(base: Path, seed: int, **options: Any) -> Any:
    """Build a model with adapters that change its output."""
    model = load_causal_lm(ModelSource(path=str(base), lora=LoRA(rank=4), **options))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "base", seed=1)
    return tmp_path / "base"


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> str:
    tokenizer = tiny_tokenizer()
    encoder = ComparisonEncoder(tokenizer, TEMPLATE, 160)
    save_judge(tmp_path / "judge", adapted(base, 7), tokenizer, encoder, merge=False)
    return str(tmp_path / "judge")


def compared(judge: GenerativeJudge) -> torch.Tensor:
    verdict = judge.compare(QUESTIONS, A, B)
    return torch.stack([verdict.margin_ab, verdict.margin_ba])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("cache", [None, 0.1])
def test_it_says_what_it_says_alone(base: Path, folder: str, checkpointing: bool, cache: float | None) -> None:
    policy = adapted(base, 3, gradient_checkpointing=checkpointing).train()
    alone = GenerativeJudge.from_pretrained(folder)
    judge = GenerativeJudge(folder, share_base_model=True, prefix_cache_gib=cache)
    load_frozen(judge, policy, str(base))
    found = compared(judge)
    assert_same_numbers(found, compared(alone))
    with torch.autocast("cpu", torch.bfloat16):  # in its own type, though the policy learns in mixed precision
        assert torch.equal(compared(judge), found)
    assert list(judge.parameters()) == []
    assert policy.training


def test_the_policy_and_its_critic_notice_nothing(base: Path, folder: str) -> None:
    policy = adapted(base, 3)
    critic = AdapterCritic(policy)
    torch.nn.init.normal_(critic.head.weight)
    trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    before, values = policy(IDS).logits.detach(), critic(IDS, torch.ones_like(IDS).bool(), 4).detach()
    judge = GenerativeJudge(folder, share_base_model=True)
    load_frozen(judge, policy, str(base))
    compared(judge)
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == trainable
    assert torch.equal(policy(IDS).logits, before)
    assert torch.equal(critic(IDS, torch.ones_like(IDS).bool(), 4), values)


def test_outside_of_ppo_it_reads_its_base_model(folder: str) -> None:
    judge, alone = (GenerativeJudge.from_pretrained(folder, share_base_model=shared) for shared in (True, False))
    assert torch.equal(compared(judge), compared(alone))


def test_another_base_model_is_refused(base: Path, folder: str, tmp_path: Path) -> None:
    judge = GenerativeJudge(folder, share_base_model=True)
    with pytest.raises(ValueError, match="holds adapters of .*base, the policy's are on elsewhere"):
        load_frozen(judge, adapted(base, 3), "elsewhere")
    with pytest.raises(ValueError, match=r"the policy has no adapters; set policy.lora"):
        load_frozen(judge, load_causal_lm(ModelSource(path=str(base))), str(base))
    settings = json.loads(Path(folder, ADAPTERS).read_text())
    Path(folder, ADAPTERS).unlink()
    with pytest.raises(ValueError, match=r"it holds a whole model.*prl export --adapter-only"):
        load_frozen(judge, adapted(base, 3), str(base))
    relative = {**settings, "base_model_name_or_path": str(base / ".." / "base")}  # another way to write it
    Path(folder, ADAPTERS).write_text(json.dumps(relative))
    load_frozen(judge, adapted(base, 3), str(base))


def test_another_type_is_refused(base: Path, folder: str) -> None:
    judge = GenerativeJudge(folder, share_base_model=True)
    with pytest.raises(
        ValueError, match="is to work in float32 on the policy's base model, whose weights are bfloat16"
    ):
        load_frozen(judge, adapted(base, 3, dtype="bfloat16"), str(base))


def test_adapters_on_adapters_know_their_base_model(base: Path, tmp_path: Path) -> None:
    """A judge trained on a policy that is adapters itself: its base model is that policy, not the base model."""
    tokenizer, encoder = tiny_tokenizer(), ComparisonEncoder(tiny_tokenizer(), TEMPLATE, 160)
    policy, judge = str(tmp_path / "policy"), str(tmp_path / "judge")
    save_model(adapted(base, 3), tokenizer, policy, merge=False)
    save_judge(judge, adapted(Path(policy), 7), tokenizer, encoder, merge=False)
    save_judge(tmp_path / "merged", adapted(Path(policy), 7), tokenizer, encoder)
    expected = compared(GenerativeJudge.from_pretrained(str(tmp_path / "merged")))
    assert_same_numbers(compared(GenerativeJudge.from_pretrained(judge)), expected)
    shared = GenerativeJudge(judge, share_base_model=True)
    with pytest.raises(ValueError, match="holds adapters of .*policy, the policy's are on .*base"):
        load_frozen(shared, adapted(base, 3), str(base))
    load_frozen(shared, adapted(Path(policy), 5), policy)
    assert_same_numbers(compared(shared), expected)


def test_it_has_nothing_of_its_own_to_write(base: Path, folder: str, tmp_path: Path) -> None:
    judge = GenerativeJudge(folder, share_base_model=True)
    load_frozen(judge, adapted(base, 3), str(base))
    with pytest.raises(ValueError, match="works on the policy's base model and has no weights of its own"):
        judge.save_pretrained(tmp_path / "out")
