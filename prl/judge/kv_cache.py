"""Cache of keys and values for the beginnings of comparisons: prompts, and prompts with their anchor.

An anchor stays while responses change, so its part of a reading is computed once. A margin does not depend on the
contents of the cache: a beginning is always computed alone and by the same calls, cached or not.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from prl.data.tokens import left_pad
from prl.models.prefix_sharing.tree_attention import (
    TokenCounts,
    attention_window,
    device_of,
    dtype_of,
    logits_mismatch,
    probe_pair,
)

LEAST_FILLED = 0.75
"""Shortest new part of a batch, as a share of the longest: the difference is padding."""
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer: [1, heads, length, size]."""


class Reading(NamedTuple):
    """A comparison as ids, and the ends of its reusable beginnings."""

    ids: list[int]
    ends: tuple[int, ...]
    """Lengths of the cached beginnings, rising, below the number of ids: prompt, prompt with anchor."""


class PrefixCache:
    """Computes verdict logits from cached beginnings and the new part of each reading.

    Args:
        gib: memory of the cache on the judge's device; the least recently used entry is dropped first.
        model: a causal language model.
        sample: ids to try it on.

    Raises:
        ValueError: when the memory is too small, or the model cannot continue from keys and values.
    """

    def __init__(self, gib: float, model: Any, sample: list[int]) -> None:
        if not gib > 0:
            raise ValueError(f"prefix_cache_gib is {gib}; expected null or a positive number")
        self.model, self.max_bytes = model, gib * 2**30
        self._kept: OrderedDict[tuple[int, ...], Layers] = OrderedDict()
        self._bytes = 0
        self._kept_as: tuple[torch.device, torch.dtype] | None = None
        is_elsewhere = device_of(model).type == "meta"  # the process with the weights tries
        if not is_elsewhere and (reason := self._why_unable(sample)) is not None:
            raise ValueError(f"prefix_cache_gib is set, but {reason}; set it to null")
        self.clear()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return device_of(self.model)

    def clear(self) -> None:
        """Drop all entries."""
        self._kept.clear()
        self._bytes = 0

    @torch.no_grad()
    def logits(
        self, readings: list[Reading], pad_id: int, max_tokens: int, tokens: TokenCounts
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield numbers of readings, and the logits of the token after each of them: [n, V] float32.

        Args:
            readings: comparisons to judge.
            pad_id: id of the padding.
            max_tokens: padded tokens of one forward pass, cached ones included.
            tokens: counters of computed tokens.
        """
        if self._kept_as != (form := (self.device, dtype_of(self.model))):
            self.clear()  # the model was moved or converted
            self._kept_as = form
        for numbers in _batches(readings, max_tokens):
            members = [readings[i] for i in numbers]
            kept = [self._beginning(reading, tokens) for reading in members]
            fresh = [reading.ids[reading.ends[-1] :] for reading in members]
            logits = self._continue(kept, fresh, pad_id)
            width = max(map(len, fresh))
            tokens.add(sum(len(r.ids) for r in members), sum(map(len, fresh)), width * len(fresh))
            yield numbers, logits

    def _beginning(self, reading: Reading, tokens: TokenCounts) -> Layers:
        """Return keys and values of the longest beginning, extending the cached one end after the other."""
        layers: Layers = []
        start = 0
        for end in reading.ends:
            key = tuple(reading.ids[:end])
            found = self._kept.get(key)
            if found is None:
                found = self._extend(layers, reading.ids[start:end], start)
                tokens.add(0, end - start, end - start)
                self._keep(key, found)
            self._kept.move_to_end(key)
            layers, start = found, end
        self._shrink()
        return layers

    def _extend(self, layers: Layers, ids: list[int], start: int) -> Layers:
        device = self.device
        cache = _as_cache(layers)
        positions = torch.arange(start, start + len(ids), device=device)[None]
        input_ids = torch.tensor([ids], device=device)
        self.model(input_ids, past_key_values=cache, position_ids=positions, use_cache=True, logits_to_keep=1)
        return [(keys, values) for keys, values, *_ in cache]

    def _continue(self, kept: list[Layers], fresh: list[list[int]], pad_id: int) -> Tensor:
        """Run one forward pass over the new parts, left padded, behind the cached ones, left padded too."""
        device = self.device
        lengths = torch.tensor([layers[0][0].shape[2] for layers in kept], device=device)
        width = int(lengths.max())
        before = torch.arange(width, device=device) >= width - lengths[:, None]
        cache = DynamicCache()
        for number in range(len(kept[0])):
            keys, values = (torch.cat([_widened(layers[number][part], width) for layers in kept]) for part in (0, 1))
            cache.update(keys, values, number)
        ids, mask = (each.to(device) for each in left_pad(fresh, pad_id))
        positions = (lengths[:, None] + mask.long().cumsum(1) - 1).clamp(min=0)
        return (
            self.model(
                ids,
                past_key_values=cache,
                attention_mask=torch.cat([before, mask.bool()], 1).long(),
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )

    def _keep(self, key: tuple[int, ...], layers: Layers) -> None:
        self._kept[key] = layers
        self._bytes += _size(layers)

    def _shrink(self) -> None:
        while self._bytes > self.max_bytes and self._kept:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def _why_unable(self, sample: list[int]) -> str | None:
        """Explain why the model cannot use the cache; None when it can."""
        if attention_window(self.model) is not None:
            return (
                f"{type(self.model).__name__} looks back through a window, which forgets what a beginning is kept for"
            )

        def branches() -> Tensor:
            half, (one, other) = len(sample) // 2, probe_pair(sample)
            pair = [Reading(one, (half,)), Reading(other, (half // 2, half))]
            found = dict(
                entry
                for numbers, logits in self.logits(pair, sample[0], 2 * len(sample), TokenCounts())
                for entry in zip(numbers, logits, strict=True)
            )
            return torch.stack([found[0], found[1]])

        return logits_mismatch(self.model, sample, branches, "does not continue from keys and values")


def _batches(readings: list[Reading], max_tokens: int) -> Iterator[list[int]]:
    """Batch readings by the lengths of their new parts, longest first.

    New parts behind a prompt and behind a prompt with its anchor differ by a response: apart they need no padding.
    """

    def new(i: int) -> int:
        return len(readings[i].ids) - readings[i].ends[-1]

    order = sorted(range(len(readings)), key=new, reverse=True)
    while order:
        batch: list[int] = []
        longest, kept = new(order[0]), 0
        for i in order:
            kept = max(kept, readings[i].ends[-1])
            too_large = (longest + kept) * (len(batch) + 1) > max_tokens
            if batch and (too_large or new(i) < LEAST_FILLED * longest):
                break
            batch.append(i)
        yield batch
        order = order[len(batch) :]


def _as_cache(layers: Layers) -> DynamicCache:
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def _widened(states: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


def _size(layers: Layers) -> int:
    return sum(states.numel() * states.element_size() for pair in layers for states in pair)
