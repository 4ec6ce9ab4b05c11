"""A model's own turn: written as its chat template writes it, ended by its end, judged without its thoughts."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers
from transformers import GenerationConfig

from prl.data import Demonstration
from prl.data.encoding import DemonstrationEncoder, encode_prompt
from prl.data.thoughts import opens_thoughts, without_thoughts
from prl.data.turns import encode_reply, encode_turn, end_of_turn
from prl.models.offload import Offload
from prl.rewards.base import against_anchors
from prl.rl.judging import Judging
from prl.rl.sharding import Sharding
from prl.rollouts.generate import end_token_ids, keep_end_tokens
from prl.types import PromptBatch
from tests.helpers.records import answered
from tests.helpers.tiny import LengthJudge, tiny_model, tiny_tokenizer
from tests.helpers.tokenizers import byte_pair_tokenizer

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content TRIM }}<|im_end|>\n{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}{% set t = m.content.split('</think>') %}"
    "<|im_start|>assistant\n<think>\n{{ t[0].split('<think>')[-1] if t | length > 1 else '' }}\n</think>\n\n"
    "{{ t[-1] }}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)
LLAMA = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }} [/INST]{% else %}"
    "{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "plain": TURN.replace("TRIM", "") + BEGIN,
    "trimmed": TURN.replace("TRIM", "| trim") + BEGIN,
    "thinking": THINKING + BEGIN,
    "no generation prompt": LLAMA,
}


def tokenizer_with(template: str, make=tiny_tokenizer):
    tokenizer = make()
    marks = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    tokenizer.add_tokens([AddedToken(mark, special=mark == "<|im_end|>", normalized=False) for mark in marks])
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {
    (name, make): tokenizer_with(TEMPLATES[name], make)
    for name in TEMPLATES
    for make in (tiny_tokenizer, byte_pair_tokenizer)
}
answers = st.text(alphabet="the ars.<|>", min_size=1, max_size=9).map(str.strip).filter(bool)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40)
@given(question=answers, answer=answers, thoughts=st.sampled_from(["", "<think>\nthe</think>\n\n"]))
def test_a_demonstration_is_the_dialogue_as_the_template_writes_it(name, question, answer, thoughts) -> None:
    """Token for token what transformers gives, as far as the token that ends the turn."""
    answer = thoughts + answer
    for make in (tiny_tokenizer, byte_pair_tokenizer):
        tokenizer = TOKENIZERS[name, make]
        prompt = [{"role": "user", "content": question}]
        row = DemonstrationEncoder(tokenizer, 400).encode(Demonstration(prompt, answer))
        dialogue = [*prompt, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(dialogue, return_dict=False)
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        end = "<eos>" if name == "no generation prompt" else "<|im_end|>"
        end_id = tokenizer.convert_tokens_to_ids(end)
        last = len(whole) - whole[::-1].index(end_id)
        assert row["ids"] == whole[:last]
        assert row["ids"][: -row["num_response"]] == asked
        assert end_of_turn(tokenizer)[-1] == end_id


@pytest.mark.parametrize("name", ["plain", "trimmed", "no generation prompt"])
@settings(max_examples=40)
@given(question=answers, answer=answers, reply=answers)
def test_an_answer_to_a_turn_is_the_dialogue_as_the_template_writes_it(name, question, answer, reply) -> None:
    """Prompt, turn, its end and what another says give the tokens of the whole dialogue, ready for the next turn."""
    for make in (tiny_tokenizer, byte_pair_tokenizer):
        tokenizer = TOKENIZERS[name, make]
        prompt = [{"role": "user", "content": question}]
        asked = encode_prompt(tokenizer, prompt)
        turn, end = encode_turn(tokenizer, prompt, asked, answer)
        dialogue = [*prompt, {"role": "assistant", "content": answer}, {"role": "user", "content": reply}]
        whole = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_dict=False)
        assert [*asked, *turn, *end, *encode_reply(tokenizer, prompt, reply)] == whole


def test_an_answer_goes_on_behind_turns_that_a_template_shortens_later() -> None:
    """The template drops thoughts of earlier turns, which stay as they were sampled; what follows is the same."""
    tokenizer = TOKENIZERS["thinking", tiny_tokenizer]
    found = tokenizer.decode(encode_reply(tokenizer, [{"role": "user", "content": "q"}], "no"))
    assert found == "\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_may_say_what_a_turn_is_told_by() -> None:
    lines = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer = tokenizer_with(lines + "{% if add_generation_prompt %}assistant: {% endif %}")
    for text in ("Hello\n1..3", "Hello", "Helloo\nHello\n"):
        found = tokenizer.decode(encode_reply(tokenizer, [{"role": "user", "content": "q"}], text))
        assert found == f"\nuser: {text}\nassistant: "


def test_an_answer_that_quotes_a_mark_forges_none() -> None:
    tokenizer = TOKENIZERS["plain", tiny_tokenizer]
    end, text = tokenizer.convert_tokens_to_ids("<|im_end|>"), "a<|im_end|>b"
    ids = encode_reply(tokenizer, [{"role": "user", "content": text}], text)
    assert ids.count(end) == 1
    assert text in tokenizer.decode(ids)


def test_an_answer_needs_a_template_that_says_how_turns_end() -> None:
    prompt = [{"role": "user", "content": "q"}]
    with pytest.raises(ValueError, match="has no chat template, which would say how a dialogue goes on"):
        encode_reply(tokenizer_with(None), prompt, "no")
    shortens = TEMPLATES["plain"].replace("{{ m.content  }}", "{{ m.content if loop.last else '' }}")
    assert shortens != TEMPLATES["plain"]
    with pytest.raises(ValueError, match="writes the end of a turn differently when another turn follows"):
        encode_reply(tokenizer_with(shortens), prompt, "no")


def test_a_demonstration_that_quotes_a_mark_forges_none() -> None:
    tokenizer = TOKENIZERS["plain", tiny_tokenizer]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    quoting = Demonstration([{"role": "user", "content": "end?"}], "<|im_end|>\n<|im_start|>user")
    row = DemonstrationEncoder(tokenizer, 400).encode(quoting)
    answer = row["ids"][-row["num_response"] :]
    assert answer.count(end) == 1
    assert tokenizer.decode(answer) == "<|im_end|>\n<|im_start|>user<|im_end|>"


def test_a_prompt_that_opens_the_thoughts_is_followed_by_them() -> None:
    """Where a dialogue is written without the thoughts of its last turn, the turn is written as it is sampled."""
    cut = "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    tokenizer = tokenizer_with(cut + "{% if add_generation_prompt %}<think>\n{% endif %}")
    row = DemonstrationEncoder(tokenizer, 99).encode(
        Demonstration([{"role": "user", "content": "q"}], "<think>r</think>a")
    )
    assert tokenizer.decode(row["ids"]) == "<|im_start|>q<|im_end|><think>\nr</think>a<|im_end|>"
    marks = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert [row["ids"].count(mark) for mark in marks] == [1, 1]
    assert opens_thoughts(tokenizer)


def test_sampling_ends_where_a_demonstration_does() -> None:
    tokenizer, model = TOKENIZERS["plain", tiny_tokenizer], tiny_model()
    model.generation_config = GenerationConfig(eos_token_id=7)
    expected = sorted([tokenizer.eos_token_id, 7, tokenizer.convert_tokens_to_ids("<|im_end|>")])
    assert end_token_ids(model, tokenizer) == expected
    keep_end_tokens(model, tokenizer)
    assert model.generation_config.eos_token_id == expected


def test_marks_of_thoughts_behind_the_first_ones_are_characters() -> None:
    tokenizer = tokenizer_with(TEMPLATES["plain"] + "{# <think> </think> #}")
    text = "<think>r</think>a <think>b</think>"
    row = DemonstrationEncoder(tokenizer, 99).encode(Demonstration([{"role": "user", "content": "q"}], text))
    marks = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert [row["ids"].count(mark) for mark in marks] == [1, 1]
    assert text in tokenizer.decode(row["ids"])


@pytest.mark.parametrize(
    ("text", "opened", "answer"),
    [
        ("plain", False, "plain"),
        ("<think>r</think>\n\nanswer", False, "answer"),
        ("\n<think>r</think>a</think>b", False, "a</think>b"),
        ("<think>without an end", False, ""),
        ("a </think> is how thoughts end", False, "a </think> is how thoughts end"),
        ("r</think> a", True, "a"),
        ("without an end", True, ""),
        ("<think>r</think>a", True, "a"),
    ],
)
def test_the_answer_is_what_follows_the_thoughts(text, opened, answer) -> None:
    assert without_thoughts(text, opened=opened) == answer


def judging(judge_thoughts: bool, template: str, **more: Any) -> Judging:
    return Judging(
        *(LengthJudge(), None),
        with_thoughts=judge_thoughts,
        tokenizer=tokenizer_with(template),
        offload=Offload(False),
        sharding=Sharding(),
        **more,
    )


def test_an_anchor_that_a_policy_wrote_is_read_as_its_response() -> None:
    """A response that hit its limit within its thoughts has no answer, compared with itself as well."""
    template = TEMPLATES["plain"] + "{% if add_generation_prompt %}<think>{% endif %}"
    cut, tokens = "thoughts without an end", torch.ones(1, 1, dtype=torch.long)
    batch = PromptBatch(tokens, tokens.bool(), [[{"role": "user", "content": "q"}]], [(cut,)])
    for own, margin in ((True, 0.0), (False, -float(len(cut)))):
        verdict = judging(False, template, own_anchors=own).score(answered(batch, [cut])).verdict
        assert verdict.win_logit.tolist() == [margin]


@pytest.mark.parametrize("opened", [False, True])
def test_judges_read_answers_without_thoughts_unless_asked(opened) -> None:
    template = TEMPLATES["plain"] + ("{% if add_generation_prompt %}<think>{% endif %}" if opened else "")
    start = "" if opened else "<think>"
    responses = [f"{start}a long thought</think>abc", f"{start}a thought without an end"]
    tokens = torch.ones(2, 1, dtype=torch.long)
    turn = [{"role": "user", "content": "q"}]
    batch = PromptBatch(tokens, tokens.bool(), [turn] * 2, [("<think>hm</think>a", "ab")] * 2)
    for asked, lengths in ((False, [3, 0]), (True, list(map(len, responses)))):
        judges = judging(asked, template)
        anchors = [len("<think>hm</think>a"), 2] if asked else [1, 2]
        margins = judges.score(answered(batch, responses)).verdict.win_logit
        assert margins.tolist() == [length - anchor for length in lengths for anchor in anchors]
        confirmed = against_anchors(judges.second_opinion, answered(batch, responses[:1] * 2))[0] if not asked else None
        assert confirmed is None or confirmed.win_logit.tolist() == [2, 1, 2, 1]


def test_a_turn_has_no_token_across_its_border() -> None:
    tokenizer = byte_pair_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert tokenizer.tokenize(" theme") == ["\u0120theme"]
    tokenizer.chat_template = (
        "{% for m in messages %}{{ ' th' if m.role == 'user' else m.content + eos_token }}{% endfor %}"
    )
    row = DemonstrationEncoder(tokenizer, 99).encode(Demonstration([{"role": "user", "content": "q"}], "eme"))
    assert tokenizer.decode(row["ids"]) == " theme<eos>"
    assert tokenizer.decode(row["ids"][-row["num_response"] :]) == "eme<eos>"
