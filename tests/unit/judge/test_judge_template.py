import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from prl.judge.template import (
    JudgeTemplate,
    VerdictTokenError,
    compile_template,
    render_conversation,
)
from tests.helpers.tiny import tiny_tokenizer

SHORT = "P:{{ prompt }} 1:{{ response_a }} 2:{{ response_b }} best?"


def decoded(compiled, tokenizer) -> list[str]:
    return [tokenizer.decode(list(piece)) for piece in compiled.pieces]


def test_pieces_stand_around_the_fields_in_their_order(tokenizer) -> None:
    compiled = compile_template(JudgeTemplate(SHORT, chat=False), tokenizer)
    assert compiled.fields == ("prompt", "response_a", "response_b")
    assert decoded(compiled, tokenizer) == ["P:", " 1:", " 2:", " best?"]
    assert compiled.verdict_ids == tuple(tokenizer.convert_tokens_to_ids(["A", "B"]))
    assert compiled.num_literal_tokens == len("P: 1: 2: best?")


def test_fields_may_come_in_another_order(tokenizer) -> None:
    text = "2:{{ response_b }} 1:{{ response_a }} P:{{ prompt }}"
    compiled = compile_template(JudgeTemplate(text, chat=False), tokenizer)
    assert compiled.fields == ("response_b", "response_a", "prompt")
    assert decoded(compiled, tokenizer) == ["2:", " 1:", " P:", ""]


def test_the_chat_template_and_the_answer_prefix_close_the_frame(tokenizer) -> None:
    compiled = compile_template(JudgeTemplate(SHORT, answer_prefix="Answer: "), tokenizer)
    assert decoded(compiled, tokenizer)[-1] == " best?\nAnswer: "  # a user turn ends in a newline
    plain = compile_template(JudgeTemplate(SHORT, chat=False, answer_prefix="Answer: "), tokenizer)
    assert decoded(plain, tokenizer)[-1] == " best?Answer: "


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SHORT.replace("{{ response_b }}", ""), "response_b }} 0 times"),
        (SHORT + "{{ prompt }}", "prompt }} 2 times"),
        ("", "prompt }} 0 times"),
        (SHORT.replace("response_a", "response_x"), "response_a }} 0 times"),
    ],
)
def test_every_field_exactly_once(text, found) -> None:
    with pytest.raises(ValueError, match=found):
        JudgeTemplate(text)


@pytest.mark.parametrize("text", ["{{ prompt }", "{% if %}", "{{ prompt | nothing }}", "a\n{% endfor %}"])
def test_broken_jinja_is_named(text) -> None:
    with pytest.raises(ValueError, match=r"template\.text is not a Jinja template, line [12]: "):
        JudgeTemplate(text=text)


def test_two_different_verdict_words() -> None:
    with pytest.raises(ValueError, match=r"template.verdicts is \('A', 'A'\); expected two different words"):
        JudgeTemplate(verdicts=("A", "A"))


@pytest.mark.parametrize("words", [("A", "AB"), ("AB", "A"), ("A", "")])
def test_a_verdict_word_of_another_number_of_tokens_is_named(tokenizer, words) -> None:
    bad = next(word for word in words if len(word) != 1)
    with pytest.raises(VerdictTokenError, match=f"verdict word '{bad}' is written as {len(bad)} tokens"):
        compile_template(JudgeTemplate(SHORT, verdicts=words), tokenizer)


def test_an_unknown_verdict_word_is_refused(tokenizer) -> None:
    with pytest.raises(VerdictTokenError, match="verdict word 'é'"):
        compile_template(JudgeTemplate(SHORT, verdicts=("A", "é")), tokenizer)


def word_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", "YES", "NO", "one", "two", "P:", "1:", "2:", "best?"]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    if bos:
        model.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_a_word_that_melts_into_the_text_before_it_is_refused() -> None:
    # Words apart from each other are one token each, but "best?" + "NO" is one unknown word.
    with pytest.raises(VerdictTokenError, match="verdict word 'YES'"):
        compile_template(JudgeTemplate(SHORT, verdicts=("YES", "NO")), word_tokenizer(bos=False))


def test_words_of_several_characters_may_be_one_token() -> None:
    template = JudgeTemplate(SHORT, verdicts=("YES", "NO"), answer_prefix=" ")
    assert compile_template(template, word_tokenizer(bos=False)).verdict_ids == (3, 4)


def test_beginning_of_sequence_comes_first_and_once_where_the_tokenizer_adds_it() -> None:
    template = JudgeTemplate(SHORT, verdicts=("YES", "NO"), answer_prefix=" ")
    pieces = compile_template(template, word_tokenizer(bos=True)).pieces
    assert pieces[0] == (1, 7)
    assert [piece.count(1) for piece in pieces] == [1, 0, 0, 0]
    assert compile_template(template, word_tokenizer(bos=False)).pieces[0] == (7,)


def test_conversations_with_several_turns_show_their_speakers() -> None:
    assert render_conversation([{"role": "user", "content": "hi"}]) == "hi"
    turns = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    assert render_conversation(turns) == "System: be\n\nUser: hi"


def test_the_fingerprint_changes_with_every_setting() -> None:
    variants = [
        JudgeTemplate(),
        JudgeTemplate(SHORT),
        JudgeTemplate(verdicts=("B", "A")),
        JudgeTemplate(chat=False),
        JudgeTemplate(answer_prefix=" "),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert JudgeTemplate().fingerprint == JudgeTemplate().fingerprint


def test_templates_can_not_reach_outside_the_sandbox() -> None:
    with pytest.raises(Exception, match="unsafe"):
        JudgeTemplate(SHORT + "{{ prompt.__class__.__mro__ }}")


def test_tokenizers_without_a_chat_template_get_the_plain_text() -> None:
    bare = tiny_tokenizer()
    bare.chat_template = None
    assert compile_template(JudgeTemplate(SHORT), bare) == compile_template(JudgeTemplate(SHORT, chat=False), bare)
