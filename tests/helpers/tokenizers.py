"""Real tokenizers that differ in who writes the beginning-of-sequence token, and in how many characters a token has."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from prl.quickstart.tokenizer import CHAT_TEMPLATE
from tests.helpers.tiny import tiny_tokenizer

BOS = "<s>"
STRICT_TEMPLATE = (
    "{% set turns = messages[1:] if messages[0]['role'] == 'system' else messages %}"
    "{% for turn in turns %}"
    "{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns alternate') }}{% endif %}"
    "{% endfor %}" + CHAT_TEMPLATE
)
"""Refuses a conversation that does not begin with a user's turn, behind at most one system message."""


def bos_tokenizer(adds: bool, template_writes: bool | None) -> PreTrainedTokenizerFast:
    """Build a character tokenizer with a beginning-of-sequence token.

    Args:
        adds: it puts the token in front of every text by itself.
        template_writes: its chat template writes the token; None for a tokenizer without a chat template.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": BOS})
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)]
        )
    tokenizer.chat_template = (
        None if template_writes is None else ("{{ bos_token }}" if template_writes else "") + STRICT_TEMPLATE
    )
    return tokenizer


def byte_pair_tokenizer() -> PreTrainedTokenizerFast:
    """Tokens of several bytes each, so that a text is not as long as the sum of its parts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    backend.train_from_iterator(["the theme of these letters is other than that there"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", chat_template=STRICT_TEMPLATE
    )
