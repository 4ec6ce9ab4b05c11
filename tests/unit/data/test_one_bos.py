"""One beginning-of-sequence token at most, whoever writes it: the tokenizer, the chat template, both or neither."""

import pytest
from tokenizers.processors import TemplateProcessing

from prl.data import AnchoredPrompt, Demonstration, PreferencePair
from prl.data.encoding import DemonstrationEncoder, PromptEncoder, ScalarPairEncoder
from prl.judge import ComparisonEncoder, JudgeTemplate
from tests.helpers.tokenizers import BOS, bos_tokenizer

PROMPT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"{BOS}Hi?"}]
TEXT = "{{ prompt }} 1:{{ response_a }} 2:{{ response_b }} ?"


def rows(tokenizer, max_length: int) -> dict[str, list[list[int]]]:
    """Encode one record by every encoder."""
    pair = PreferencePair(PROMPT, "Hello." * 5, "No." * 9)
    made = {}
    for name, chat in (("judge", False), ("judge with chat", True)):
        judge = ComparisonEncoder(tokenizer, JudgeTemplate(TEXT, chat=chat), max_length)
        row = judge.encode(pair)
        made[name] = [row["chosen_first"], row["rejected_first"]]
    row = ScalarPairEncoder(tokenizer, max_length, "truncate").encode(pair)
    made["scalar"] = [row["chosen"], row["rejected"]]
    row = DemonstrationEncoder(tokenizer, max_length, "truncate").encode(Demonstration(PROMPT, "Hello."))
    made["demonstration"] = [row["ids"]]
    made["prompt"] = [PromptEncoder(tokenizer, max_length - 20, "truncate").encode(AnchoredPrompt(PROMPT))["ids"]]
    return made


@pytest.mark.parametrize("max_length", [200, 30])
@pytest.mark.parametrize("template_writes", [True, False, None])
@pytest.mark.parametrize("adds", [True, False])
def test_a_row_begins_with_as_many_as_the_model_expects(adds, template_writes, max_length) -> None:
    """A chat template speaks for the tokenizer where there is one; what a user has written in a text is never one."""
    tokenizer = bos_tokenizer(adds, template_writes)
    through_template = bool(adds if template_writes is None else template_writes)
    expected = dict.fromkeys(("judge with chat", "scalar", "demonstration", "prompt"), through_template)
    expected["judge"] = adds
    for name, made in rows(tokenizer, max_length).items():
        for ids in made:
            begins = ids[0] == tokenizer.bos_token_id
            assert begins == expected[name], name
            assert ids[1] != tokenizer.bos_token_id, name


def test_a_cut_row_keeps_it() -> None:
    for template_writes in (True, None):
        tokenizer = bos_tokenizer(adds=True, template_writes=template_writes)
        ids = PromptEncoder(tokenizer, 4, "truncate").encode(AnchoredPrompt(PROMPT))["ids"]
        assert len(ids) <= 4
        assert ids[0] == tokenizer.bos_token_id


def test_two_of_them_are_refused() -> None:
    twice = bos_tokenizer(adds=False, template_writes=True)
    twice.chat_template = "{{ bos_token }}" + twice.chat_template
    twice.name_or_path = "folder/tokenizer"
    told = (
        "the chat template and tokenizer folder/tokenizer together begin a text with two .* '<s>'; take it out of the"
    )
    for encoder in (ScalarPairEncoder(twice, 64), PromptEncoder(twice, 64)):
        with pytest.raises(ValueError, match=told):
            encoder.encode(
                AnchoredPrompt(PROMPT) if isinstance(encoder, PromptEncoder) else PreferencePair(PROMPT, *"ab")
            )
    with pytest.raises(ValueError, match="the judge's template, the chat template and tokenizer folder/tokenizer"):
        ComparisonEncoder(twice, JudgeTemplate(TEXT), 64)
    with pytest.raises(ValueError, match=r"the judge's template.* or set add_bos_token to false"):
        ComparisonEncoder(bos_tokenizer(True, None), JudgeTemplate(BOS + TEXT, chat=False), 64)


def test_a_prompt_does_not_end_where_its_tokenizer_ends_every_text() -> None:
    tokenizer = bos_tokenizer(adds=False, template_writes=None)
    plain = PromptEncoder(tokenizer, 200).encode(AnchoredPrompt(PROMPT))["ids"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    assert tokenizer("Hi?")["input_ids"][-1] == tokenizer.eos_token_id
    assert PromptEncoder(tokenizer, 200).encode(AnchoredPrompt(PROMPT))["ids"] == plain
