"""Encoding of user texts without control tokens: turns, ends and tool calls written in them stay plain characters.

A mark is a special token, or an added token that the template around the text writes. A mark inside
a user's text stays characters. Such texts are encoded by a copy of the tokenizer in which each mark has another name,
an alias that no text can contain: marks of the template are written as aliases, and all other text is encoded as ever.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


class Marks:
    """The marks of one tokenizer.

    Args:
        tokenizer: the tokenizer of the marks.
        frame: text of the templates; added tokens in it are marks too.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame: str) -> None:
        self.tokenizer = tokenizer
        nonce = secrets.token_hex(8)  # changes no token, only what cannot be written in a text
        found = sorted(_marks(tokenizer, frame), key=len, reverse=True)  # tokenizers take the longest one too
        self.aliases = {mark: f"\U000f0000{nonce}.{number}\U000f0001" for number, mark in enumerate(found)}
        self._names = {alias: mark for mark, alias in self.aliases.items()}
        normalized = {self._normalize(mark) for mark in found} - {""}
        self._pattern = _any_of(found)
        self._looks_like = _any_of(sorted({*found, *normalized}, key=len, reverse=True))
        self._aliases_pattern = _any_of(list(self._names))

    def found_in(self, text: str) -> bool:
        """Return whether a tokenizer might see a mark in a text."""
        return bool(self._looks_like.search(text) or self._looks_like.search(self._normalize(text)))

    def all_in(self, text: str) -> list[str]:
        """List the marks that are written in a text, in their order."""
        return self._pattern.findall(text)

    def replace(self, text: str, names: Mapping[str, str]) -> str:
        """Replace some marks in the text by other names."""
        return self._pattern.sub(lambda found: names.get(found[0], found[0]), text)

    def put_names(self, text: str) -> str:
        """Replace aliases in the text by marks."""
        return self._aliases_pattern.sub(lambda m: self._names[m[0]], text)

    def encode(self, text: str) -> list[int]:
        """Encode a text in which aliases are marks, and marks are characters."""
        if not self.found_in(self._aliases_pattern.sub(" ", text)):
            plain: Any = self.tokenizer(self.put_names(text), add_special_tokens=False)["input_ids"]
            return list(plain)
        if self._copy is not None:
            return list(self._copy.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        for part in re.split(f"({self._aliases_pattern.pattern})", text):
            if part in self._names:
                ids.append(int(self.tokenizer.convert_tokens_to_ids(self._names[part])))  # type: ignore[arg-type]
            elif part:
                found: Any = self.tokenizer(part, add_special_tokens=False, split_special_tokens=True)["input_ids"]
                ids += found
        return ids

    def _normalize(self, text: str) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        normalizer = None if backend is None else backend.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    @cached_property
    def _copy(self) -> Tokenizer | None:
        """Return the tokenizer with aliases for marks; None for a tokenizer in plain Python, without such files."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        copy = Tokenizer.from_str(json.dumps(_renamed(json.loads(backend.to_str()), self.aliases)))
        for mark, alias in self.aliases.items():
            assert copy.token_to_id(alias) == backend.token_to_id(mark), f"{mark!r} cannot be told apart from text"
        return copy


def encode_contents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], frame: str = "") -> list[list[int]]:
    """Encode user texts; a mark written inside one is encoded as plain characters.

    Args:
        tokenizer: tokenizer of the model.
        texts: texts of users or models.
        frame: text of a template around them, beside the tokenizer's chat template.
    """
    marks = marks_of(tokenizer, frame)
    found: Any = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [marks.encode(text) if marks.found_in(text) else ids for text, ids in zip(texts, found, strict=True)]


def encode_content(tokenizer: PreTrainedTokenizerBase, text: str, frame: str = "") -> list[int]:
    """Encode one user text; see `encode_contents`."""
    return encode_contents(tokenizer, [text], frame)[0]


def marks_of(tokenizer: PreTrainedTokenizerBase, frame: str = "") -> Marks:
    """Return the marks of a tokenizer, its chat template, and a further template's text."""
    template = tokenizer.chat_template
    written = template if isinstance(template, str) else "\n".join((template or {}).values())
    return _marks_of(tokenizer, written + frame, len(tokenizer))


@lru_cache(maxsize=64)
def _marks_of(tokenizer: PreTrainedTokenizerBase, frame: str, _: int) -> Marks:
    return Marks(tokenizer, frame)


def _marks(tokenizer: PreTrainedTokenizerBase, frame: str) -> set[str]:
    """Find the tokens that have a meaning to a model; added tokens may also be plain words.

    A template may put a mark together, as `<|` + role + `|>`, so each role is searched for between any two characters.
    """
    added = tokenizer.added_tokens_decoder.values()
    marks = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    for token in (str(token) for token in added if not token.special):
        put_together = [token.partition(role) for role in _ROLES if role in token]
        if token in frame or any(a and b and a in frame and b in frame for a, _, b in put_together):
            marks.add(token)
    unknown = tokenizer.unk_token  # what a tokenizer writes for characters that it does not have
    return {mark for mark in marks if len(mark.strip()) > 1 and mark != unknown}


_ROLES = ("system", "user", "assistant", "tool", "developer")


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)) or "(?!)")


def _renamed(settings: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Rename some tokens in a tokenizer's file; ids stay."""
    for token in settings["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "normalized": False, "single_word": False}
    model = settings["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if "merges" in model:  # those that would put such a token together from characters
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not names.keys() & {a, b, a + b}]
    return settings | {"post_processor": None, "truncation": None, "padding": None}
