import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prl.quickstart.tokenizer import ALPHABET, build_tokenizer

TOKENIZER = build_tokenizer()


@given(st.text(alphabet=ALPHABET, max_size=40))
def test_decoding_gives_back_the_text(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(alphabet=ALPHABET.replace("<", ""), max_size=20))
def test_every_character_is_one_token_and_nothing_is_added(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert len(ids) == len(text)
    assert TOKENIZER.unk_token_id not in ids
    assert not set(ids) & {TOKENIZER.eos_token_id, TOKENIZER.pad_token_id}


@pytest.mark.parametrize("verdict", ["A", "B"])
@pytest.mark.parametrize("before", ["", ">", "Answer: ", "\n", "A", "x"])
def test_a_verdict_is_one_token_in_any_context(verdict: str, before: str) -> None:
    assert TOKENIZER.encode(before + verdict) == [*TOKENIZER.encode(before), TOKENIZER.convert_tokens_to_ids(verdict)]


def test_characters_outside_the_alphabet_are_unknown() -> None:
    assert TOKENIZER.encode("aéa")[1] == TOKENIZER.unk_token_id


def test_chat_template() -> None:
    user = {"role": "user", "content": "reverse ab"}
    assistant = {"role": "assistant", "content": "ba"}
    prompt = TOKENIZER.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    dialogue = TOKENIZER.apply_chat_template([user, assistant], tokenize=False)
    assert prompt == "reverse ab\n"
    assert dialogue == "reverse ab\nba<eos>"
    assert TOKENIZER.encode(dialogue) == TOKENIZER.encode("reverse ab\nba") + [TOKENIZER.eos_token_id]


def test_the_chat_template_marks_what_the_assistant_said() -> None:
    messages = [{"role": "user", "content": "sort ba"}, {"role": "assistant", "content": "ab"}]
    encoded = TOKENIZER.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert encoded["assistant_masks"] == [0] * len("sort ba\n") + [1] * len("ab!")


def test_a_saved_tokenizer_is_the_same(tmp_path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded.chat_template == TOKENIZER.chat_template
    for name in ("pad_token_id", "eos_token_id", "unk_token_id", "bos_token_id", "padding_side"):
        assert getattr(loaded, name) == getattr(TOKENIZER, name), name
    text = f"  a b\n\nC . , !{ALPHABET}"
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
