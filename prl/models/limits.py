"""Limits of a model, vocabulary and positions, compared with its inputs; and whether token ids mean the same to it."""

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from prl.config import ModelSource
from prl.models.loading import load_tokenizer, read_config

PROBE = "It's 3.14 o'clock:\n\tdef f(x): return x**2  # naïve café, Привет, 東京, 🙂"
"""Text of many kinds, which tokenizers of one vocabulary but other rules split otherwise."""


def check_fits(
    source: ModelSource, tokenizer: PreTrainedTokenizerBase, positions: int, *, role: str, setting: str
) -> None:
    """Refuse a model that lacks tokens or positions, before its weights are read.

    Token ids beyond the embeddings raise an IndexError, on a GPU an assertion that ends the process. So do positions
    beyond learned ones; rotary positions beyond those of the training give garbage.

    Args:
        source: the model.
        tokenizer: tokenizer of the input; another model's for a critic or a reference.
        positions: tokens of the longest row.
        role: name of the model in the error.
        setting: setting that decides `positions`, for the error.

    Raises:
        ValueError: naming the model, its limit and the request.
    """
    config = read_config(source)
    name = f"the {role} {source.path}" if source.path else f"the {role} that is made from a config"
    known = getattr(config.get_text_config(), "vocab_size", None)
    added = [] if known is None else sorted(_too_many(tokenizer, known))
    if added:
        needed = added[-1][0] + 1
        shown = ", ".join(token for _, token in added[:3]) + (", ..." if len(added) > 3 else "")
        raise ValueError(
            f"{name} has embeddings for {known} tokens, but the tokenizer in {tokenizer.name_or_path or 'use'} has "
            f"{needed} (too many: {shown}). Give the tokenizer that belongs to the model, or enlarge the model with "
            "transformers' resize_token_embeddings"
        )
    limit = most_positions(config)
    if limit is not None and positions > limit:
        raise ValueError(
            f"{name} has {limit} positions, but {setting} asks for {positions}. Lower it, take a model for longer "
            "texts, or, if it has rotary positions, set their scaling (rope_parameters) in its config.json"
        )


def check_same_ids(source: ModelSource, tokenizer: PreTrainedTokenizerBase, *, setting: str) -> None:
    """Refuse a model whose own tokenizer gives other token ids than the tokenizer of its input.

    Its scores of these ids would be those of another text, without any error.

    Args:
        source: the model.
        tokenizer: tokenizer of the input.
        setting: setting that names the model, for the error.

    Raises:
        ValueError: naming the setting, and a token whose id differs.
    """
    own = load_tokenizer(source)
    known, padding = own.get_vocab(), tokenizer.pad_token  # which is masked
    differing = [(token, n) for token, n in tokenizer.get_vocab().items() if known.get(token) != n and token != padding]
    if differing:
        token, number = min(differing, key=lambda each: each[1])
        found = f"{token!r} is {number} in the policy's and {known.get(token, 'unknown')} there"
    elif own.encode(PROBE, add_special_tokens=False) != tokenizer.encode(PROBE, add_special_tokens=False):
        found = "it splits text otherwise"
    else:
        return
    raise ValueError(
        f"{setting}: the tokenizer in {source.tokenizer or source.path} gives other token ids than the policy's "
        f"({found}), so this model would read another text; take one that was trained with the policy's tokenizer"
    )


def _too_many(tokenizer: PreTrainedTokenizerBase, known: int) -> Iterator[tuple[int, str]]:
    """Find tokens that may occur in the input and are beyond the model's vocabulary, by id and text."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    templates = str(tokenizer.chat_template or "")
    for token, number in tokenizer.get_vocab().items():
        if number >= known and (number not in special or number in used or token in templates):
            yield number, token


def most_positions(config: Any) -> int | None:
    """Return the positions that a model was made for, rotary scaling included; None without a limit."""
    settings = config.get_text_config()
    limit = getattr(settings, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0 or getattr(settings, "alibi", False):
        return None
    rotary = getattr(settings, "rope_parameters", None) or getattr(settings, "rope_scaling", None) or {}
    kinds = [each for each in rotary.values() if isinstance(each, dict)] or [
        rotary
    ]  # one, or one for each kind of layer
    for each in kinds:
        factor, trained = each.get("factor"), each.get("original_max_position_embeddings") or limit
        if each.get("rope_type", each.get("type", "default")) != "default" and isinstance(factor, int | float):
            limit = max(limit, int(factor * trained))
    return limit
