"""Decoding token by token: equal prompts are read once, the cache stays where it is, and rows that end leave."""

import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from prl.distributed import global_max
from prl.models.cast_once import cast_once
from prl.models.packed_linear import packed_linears
from prl.models.policy import position_ids
from prl.rollouts.plain_decoding import Choose, base_model_of, decode_plainly, eval_mode
from prl.rollouts.row_cache import RowCache

PASS = 128
"""Tokens that cost as much as one more forward pass: prompts of unlike lengths are read apart where that saves more."""


@torch.no_grad()
def decode_rows(
    model: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    choose: Choose,
    *,
    limits: Tensor,
    end_ids: list[int],
    pad_id: int,
    synced: bool = False,
) -> Tensor:
    """Sample tokens behind prompts, in eval mode and whatever generation settings the model has.

    A model whose layers all keep the keys and values of all tokens is run here; others by `decode_plainly`, which
    chooses by the same numbers and so gives the same tokens, up to the rounding of logits.

    Args:
        model: causal language model.
        prompt_ids: [B, S], left padded.
        prompt_mask: [B, S] True on tokens that are not padding.
        choose: chooses the next tokens.
        limits: [B] most new tokens of each row; the last of 0 tokens are whatever they are.
        end_ids: ids that end a row.
        pad_id: stands behind rows that have ended.
        synced: continue until the last process is done, because each holds a shard of the weights.

    Returns:
        [B, T] token ids, T the length of the longest row.

    Raises:
        ValueError: for prompts without tokens, or with padding behind a token.
    """
    _check_padding(prompt_mask)
    settings: Any = {"limits": limits, "end_ids": end_ids, "pad_id": pad_id, "synced": synced}
    inner = base_model_of(model)
    with nullcontext() if synced else cast_once(inner):
        if not keeps_every_token(inner):
            return decode_plainly(model, prompt_ids, prompt_mask, choose, **settings)
        with eval_mode(model), packed_linears(inner, len(prompt_ids), max(1, int(limits.max()))):
            return _Decoding(inner, prompt_ids, prompt_mask, **settings).run(choose)


def _check_padding(prompt_mask: Tensor) -> None:
    wrong = ~prompt_mask[:, -1] | (prompt_mask[:, 1:] < prompt_mask[:, :-1]).any(1)
    if bool(wrong.any()):
        row = int(wrong.long().argmax())
        raise ValueError(
            f"prompt {row} ends in padding or has padding behind a token; expected left padding and at least one token"
        )


def keeps_every_token(model: Any) -> bool:
    """Return whether all layers of a model keep keys and values of all tokens, in a cache that it is given.

    Not so are sliding windows, states of recurrent layers, and models of other libraries.
    """
    kind = next(each for each in type(model).__mro__ if not each.__module__.startswith("torch."))
    needed = {"attention_mask", "position_ids", "use_cache", _cache_argument(model)}
    if not kind.__module__.startswith("transformers.") or not needed <= _arguments(model):
        return False
    if getattr(model, "_is_stateful", False) or getattr(model.config, "is_encoder_decoder", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _arguments(model: Any) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _cache_argument(model: Any) -> str:
    """Return the name that the installed release of transformers has for a cache."""
    return "cache" if "cache" in _arguments(model) else "past_key_values"


@dataclass
class _Rows:
    """Rows that have not ended, in the order of the cache."""

    number: Tensor
    """[n] of each in the batch."""
    mask: Tensor
    """[n, S] bool, of prompt and tokens."""
    length: Tensor
    """[n] tokens so far, padding left out."""
    limit: Tensor
    """[n] most new tokens."""

    def select(self, places: Tensor) -> "_Rows":
        return _Rows(self.number[places], self.mask[places], self.length[places], self.limit[places])

    def longer(self) -> "_Rows":
        """Count one more token."""
        mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        return _Rows(self.number, mask, self.length + 1, self.limit)


class _Decoding:
    """One batch; see `decode_rows`."""

    def __init__(
        self,
        model: Any,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        *,
        limits: Tensor,
        end_ids: list[int],
        pad_id: int,
        synced: bool,
    ) -> None:
        self.model, self.synced, self.steps = model, synced, max(1, int(limits.max()))
        self.end_ids = torch.tensor(end_ids, device=prompt_ids.device)
        self.tokens = prompt_ids.new_full((len(prompt_ids), self.steps), pad_id)
        # A row without tokens to come is not read, unless all processes read something.
        number = (limits > 0).nonzero()[:, 0]
        number = number if len(number) else torch.arange(len(limits), device=limits.device)[:1]
        self.prompt_ids, mask = prompt_ids[number], prompt_mask[number]
        self.rows = _Rows(number, mask, mask.sum(1), limits[number])
        self._cache_argument, arguments = _cache_argument(model), _arguments(model)
        self._last_logits = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}

    def run(self, choose: Choose) -> Tensor:
        """Sample all rows to their ends."""
        cache, logits = self._read_prompts()
        for step in range(self.steps):
            newest = choose(logits, self.rows.number, step)
            self.tokens[self.rows.number, step] = newest
            ended = torch.isin(newest, self.end_ids) | (self.rows.limit <= step + 1)
            alive = (~ended).tolist()
            if not any(alive):
                break
            if not all(alive):
                places = torch.tensor(cache.keep(alive), device=newest.device)
                self.rows, newest = self.rows.select(places), newest[places]
            if self.synced:
                self._anyone(True)
            self.rows = self.rows.longer()
            logits = self._forward(newest, cache)
        if self.synced:
            self._join_others(cache)
        return self.tokens[:, : step + 1]

    def _anyone(self, goes_on: bool) -> bool:
        return bool(global_max(torch.tensor(int(goes_on), device=self.tokens.device)))

    def _join_others(self, cache: RowCache) -> None:
        """Take part in the passes of processes whose rows go on, by reading one token again and again."""
        cache.keep([True] + [False] * (len(self.rows.number) - 1))
        self.rows = self.rows.select(self.rows.number.new_zeros(1)).longer()
        while self._anyone(False):
            self._forward(self.prompt_ids[:1, -1], cache)
            cache.rewind()

    def _forward(self, newest: Tensor, cache: RowCache) -> Tensor:
        """Read the newest token of each row: [n] -> logits of the next [n, V]."""
        return self._logits(newest[:, None], self.rows.mask, self.rows.length[:, None] - 1, cache)

    def _logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions, "use_cache": True}
        return self.model(**inputs, **self._last_logits, **{self._cache_argument: cache}).logits[:, -1]

    def _read_prompts(self) -> tuple[RowCache, Tensor]:
        """Read each distinct prompt once: the cache of all rows, and the logits behind their prompts [B, V]."""
        prompts, which = self._distinct()
        cache: Any = None
        found: Any = None
        width = self.prompt_ids.shape[1]
        for group in [list(range(len(prompts)))] if self.synced else alike([self._length(n) for n in prompts]):
            chosen = [prompts[place] for place in group]
            size = max(self._length(n) for n in chosen)
            ids, mask = self.prompt_ids[chosen, width - size :], self.rows.mask[chosen, width - size :]
            read = DynamicCache(config=self.model.config)
            logits = self._logits(ids, mask, position_ids(mask), read)
            if cache is None:
                cache = RowCache(len(which), width, self.steps, read)
                found = logits.new_empty(len(which), logits.shape[-1])
            place_of = {place: i for i, place in enumerate(group)}
            rows = [row for row, place in enumerate(which) if place in place_of]
            sources = torch.tensor([place_of[which[row]] for row in rows], device=ids.device)
            cache.fill(torch.tensor(rows, device=ids.device), read, sources)
            found[rows] = logits[sources]
        return cache, found

    def _distinct(self) -> tuple[list[int], list[int]]:
        """Find the first row of each distinct prompt, and the place of each row's prompt among them."""
        self._lengths = self.rows.length.tolist()
        places: dict[tuple[int, ...], int] = {}
        first: list[int] = []
        which: list[int] = []
        for row, ids in enumerate(self.prompt_ids.tolist()):
            place = places.setdefault(tuple(ids[len(ids) - self._lengths[row] :]), len(places))
            if place == len(first):
                first.append(row)
            which.append(place)
        return first, which

    def _length(self, row: int) -> int:
        return self._lengths[row]


def alike(lengths: list[int]) -> list[list[int]]:
    """Group prompts of like lengths, each group for a pass of its own where that saves more padding than `PASS` tokens.

    Args:
        lengths: tokens of each prompt.

    Returns:
        groups of places in `lengths`, the longest first.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    groups, begin = [], 0
    while begin < len(order):
        rest = range(begin + 1, len(order))
        saved = [(lengths[order[begin]] - lengths[order[cut]]) * (len(order) - cut) for cut in rest]
        best = max(saved, default=0)
        end = begin + 1 + saved.index(best) if best > PASS else len(order)
        groups.append(order[begin:end])
        begin = end
    return groups
