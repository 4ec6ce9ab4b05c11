"""Keeping keys and values of what comes back changes no margin, and computes only what is new."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prl.judge import ComparisonEncoder, GenerativeJudge, JudgeTemplate
from prl.judge.files import save_judge
from prl.judge.kv_cache import PrefixCache
from prl.types import Conversation, PromptBatch
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.records import answered
from tests.helpers.tiny import tiny_model, tiny_tokenizer

TEMPLATE = JudgeTemplate("Which?\n{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?", chat=False)
PROMPT_LAST = JudgeTemplate("1:{{ response_a }}\n2:{{ response_b }}\nto {{ prompt }}?", chat=False)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-eager": {"attn_implementation": "eager"},
    "gpt2": {"model_type": "gpt2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
}
QUESTIONS = [[{"role": "user", "content": text}] for text in ("ab", "a longer question", "c")]
ANCHORS = ["xy", "an anchor", "zzzzzz"]
RESPONSES = ["one", "the second response", "3"]


def folder(path: Path, template: JudgeTemplate = TEMPLATE, max_length: int = 160, **config: Any) -> str:
    tokenizer = tiny_tokenizer()
    save_judge(path, tiny_model(5, **config), tokenizer, ComparisonEncoder(tokenizer, template, max_length))
    return str(path)


def both(verdict: Any) -> torch.Tensor:
    return torch.stack([verdict.margin_ab, verdict.margin_ba])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("template", [TEMPLATE, PROMPT_LAST], ids=["prompt first", "prompt last"])
def test_margins_are_those_of_whole_readings(name: str, template: JudgeTemplate, tmp_path: Path) -> None:
    path = folder(tmp_path, template, **ARCHITECTURES[name])
    plain = GenerativeJudge.from_pretrained(path, fused="off")
    keeping = GenerativeJudge.from_pretrained(path, prefix_cache_gib=1.0)
    for responses in (RESPONSES, RESPONSES[::-1]):
        expected, found = (both(judge.compare(QUESTIONS, responses, ANCHORS)) for judge in (plain, keeping))
        assert_same_numbers(found, expected)


def test_the_temperature_divides_what_is_read_by_a_cache(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    encoder = ComparisonEncoder(tokenizer, TEMPLATE, 160)
    verdicts = []
    for temperature in (1.0, 2.5):
        save_judge(tmp_path, tiny_model(5), tokenizer, encoder, temperature=temperature)
        judge = GenerativeJudge.from_pretrained(str(tmp_path), prefix_cache_gib=1.0)
        verdicts.append(both(judge.compare(QUESTIONS, RESPONSES, ANCHORS)))
    torch.testing.assert_close(verdicts[0], 2.5 * verdicts[1])


def test_what_is_kept_decides_no_bit(tmp_path: Path) -> None:
    """A resumed run starts with nothing kept, and must not see other rewards for it."""
    path = folder(tmp_path)
    large = GenerativeJudge.from_pretrained(path, prefix_cache_gib=1.0)
    small = GenerativeJudge.from_pretrained(path, prefix_cache_gib=1e-9)  # forgets everything at once
    first, again, forgetful = (both(each.compare(QUESTIONS, RESPONSES, ANCHORS)) for each in (large, large, small))
    assert torch.equal(first, again)
    assert torch.equal(first, forgetful)
    assert small.prefixes is not None
    assert not small.prefixes._kept


def test_only_what_is_new_is_computed(tmp_path: Path) -> None:
    judge = GenerativeJudge.from_pretrained(folder(tmp_path), prefix_cache_gib=1.0)
    assert judge.encoder is not None

    def computed(responses: list[str]) -> int:
        before = judge.tokens.computed
        judge.compare(QUESTIONS, responses, ANCHORS)
        return judge.tokens.computed - before

    kept = fresh = 0
    for question, response, anchor in zip(QUESTIONS, RESPONSES, ANCHORS, strict=True):
        found = judge.encoder.with_ends(question, anchor, response, keep_first=True)
        other = judge.encoder.with_ends(question, response, anchor, keep_first=False)
        assert found is not None
        assert other is not None
        anchor_first, (prompt, with_anchor) = found
        response_first, _ = other
        kept += with_anchor  # the prompt is a part of it
        fresh += len(anchor_first) - with_anchor + len(response_first) - prompt
    assert computed(RESPONSES) == kept + fresh
    assert computed(RESPONSES) == fresh
    assert judge.tokens.plain == 2 * sum(
        len(judge.encoder.compare(question, response, anchor)[0]) * 2  # both orders are of one length
        for question, response, anchor in zip(QUESTIONS, RESPONSES, ANCHORS, strict=True)
    )


def test_an_anchor_that_changes_is_read_anew(tmp_path: Path) -> None:
    path = folder(tmp_path)
    keeping, plain = GenerativeJudge.from_pretrained(path, prefix_cache_gib=1.0), GenerativeJudge.from_pretrained(path)
    keeping.compare(QUESTIONS, RESPONSES, ANCHORS)
    for anchors in (ANCHORS[::-1], ["xy!", "an anchor.", "zzzzz"]):
        expected, found = (both(judge.compare(QUESTIONS, RESPONSES, anchors)) for judge in (plain, keeping))
        assert_same_numbers(found, expected)


def test_comparisons_that_are_cut_are_cut_alike(tmp_path: Path) -> None:
    path = folder(tmp_path, max_length=60)
    keeping, plain = GenerativeJudge.from_pretrained(path, prefix_cache_gib=1.0), GenerativeJudge.from_pretrained(path)
    for length in (5, 40, 80):
        responses = ["r" * length] * 3
        expected, found = (both(judge.compare(QUESTIONS, responses, ["a" * 50] * 3)) for judge in (plain, keeping))
        assert_same_numbers(found, expected)
    assert keeping.truncated_fraction() == plain.truncated_fraction() > 0


def test_small_batches_give_the_same_margins(tmp_path: Path) -> None:
    path = folder(tmp_path)
    large, small = (
        GenerativeJudge.from_pretrained(path, prefix_cache_gib=1.0, max_batch_tokens=size) for size in (16384, 60)
    )
    expected, found = (both(judge.compare(QUESTIONS, RESPONSES, ANCHORS)) for judge in (large, small))
    assert_same_numbers(found, expected)


def test_several_anchors_of_a_row_are_all_kept(tmp_path: Path) -> None:
    judge = GenerativeJudge.from_pretrained(folder(tmp_path), prefix_cache_gib=1.0)
    prompts: list[Conversation] = QUESTIONS[:1] * 2
    batch = PromptBatch(torch.zeros(2, 1).long(), torch.ones(2, 1).bool(), prompts, [("a", "b"), ("a",)])
    judge.score(answered(batch, ["one", "two"]))
    assert judge.prefixes is not None
    assert len(judge.prefixes._kept) == 3  # the prompt, and the prompt with each anchor


def test_a_window_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, model_type="mistral", sliding_window=8)
    with pytest.raises(ValueError, match="prefix_cache_gib is set, but .*window.*set it to null"):
        GenerativeJudge.from_pretrained(path, prefix_cache_gib=1.0)


def test_a_model_that_does_not_continue_is_found_out() -> None:
    model = tiny_model(1)
    whole = model.forward

    def forgetful(*args: Any, past_key_values: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        return whole(*args, **kwargs)

    PrefixCache(1.0, model, list(range(3, 20)))
    model.forward = forgetful
    with pytest.raises(ValueError, match="prefix_cache_gib is set, but LlamaForCausalLM does not continue"):
        PrefixCache(1.0, model, list(range(3, 20)))


def test_no_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix_cache_gib is 0; expected null or a positive number"):
        PrefixCache(0, tiny_model(1), [3, 4, 5])


def test_responses_are_not_kept_where_the_prompt_stands_between(tmp_path: Path) -> None:
    between = JudgeTemplate("1:{{ response_a }}\nto {{ prompt }}\n2:{{ response_b }}\n?", chat=False)
    judge = GenerativeJudge.from_pretrained(folder(tmp_path, between), prefix_cache_gib=1.0)
    assert judge.prefixes is not None
    sizes = []
    for responses in (RESPONSES, ["1", "2", "33"], ["4", "5", "66"]):
        judge.compare(QUESTIONS, responses, ANCHORS)
        sizes.append(len(judge.prefixes._kept))
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_judge_that_is_converted_forgets_what_it_kept(tmp_path: Path) -> None:
    judge = GenerativeJudge.from_pretrained(folder(tmp_path), prefix_cache_gib=1.0)
    judge.compare(QUESTIONS, RESPONSES, ANCHORS)
    judge.to(torch.bfloat16)
    assert both(judge.compare(QUESTIONS, RESPONSES, ANCHORS)).isfinite().all()
