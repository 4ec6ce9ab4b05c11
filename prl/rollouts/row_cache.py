"""Keys and values of rows in memory that is allocated ahead: no token copies the cache, and rows may leave it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64
"""Tokens that are allocated ahead, at least."""


def _states(read: DynamicCache) -> list[tuple[Any, Any]]:
    layers: list[Any] = list(read.layers)
    return [(each.keys, each.values) for each in layers]


class RowLayer(DynamicLayer):
    """Keys and values of one layer: the first `rows` rows and `length` tokens of two larger tensors.

    Args:
        rows: number of rows.
        length: number of tokens that every row has, padding included.
        keys: [1, heads, _, size] of the layer, for shape, type and device.
        values: [1, heads, _, size], likewise.
        room: tokens to allocate ahead.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, rows: int, length: int, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.rows, self.length, self.room = rows, length, room
        # Zeros: padding is multiplied by an attention of 0, which would keep a NaN.
        self.keys, self.values = (
            each.new_zeros(rows, each.shape[1], length + room, each.shape[3]) for each in (keys, values)
        )
        self.device, self.dtype, self.is_initialized = keys.device, keys.dtype, True

    def fill(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the last tokens of some rows, [n, heads, S, size] each."""
        first = self.length - keys.shape[2]
        self.keys[rows, :, first : self.length] = keys
        self.values[rows, :, first : self.length] = values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append the newest tokens, and return all keys and values without a copy."""
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = (self._larger(each, end) for each in (self.keys, self.values))
        self.keys[: self.rows, :, self.length : end] = key_states
        self.values[: self.rows, :, self.length : end] = value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def _larger(self, old: Tensor, end: int) -> Tensor:
        new = old.new_zeros(self.rows, old.shape[1], end + max(self.room, end // 2), old.shape[3])
        new[:, :, : self.length] = old[: self.rows, :, : self.length]
        return new

    def get_seq_length(self) -> int:
        """Return the number of tokens of every row, padding included."""
        return self.length

    def keep(self, count: int, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Keep `count` rows, after moving rows `sources` to the places `targets`."""
        if sources:
            for each in (self.keys, self.values):
                each[targets, :, : self.length] = each[sources, :, : self.length]
        self.rows = count


class RowCache(Cache):
    """Keys and values of all layers of a model, row by row.

    Args:
        rows: number of rows.
        length: tokens of the longest prompt.
        steps: most tokens to come.
        read: a cache that has read some of the prompts.
    """

    def __init__(self, rows: int, length: int, steps: int, read: DynamicCache) -> None:
        room = min(steps, max(ROOM, length // 2))
        self.row_layers = [RowLayer(rows, length, *states, room) for states in _states(read)]
        super().__init__(layers=[*self.row_layers])

    def fill(self, rows: Tensor, read: DynamicCache, which: Tensor) -> None:
        """Give prompts that were read to the rows that begin with them: row `rows[i]` gets prompt `which[i]`."""
        for own, (keys, values) in zip(self.row_layers, _states(read), strict=True):
            own.fill(rows, keys[which], values[which])

    def rewind(self) -> None:
        """Forget the newest token of every row."""
        for layer in self.row_layers:
            layer.length -= 1

    def keep(self, alive: Sequence[bool]) -> list[int]:
        """Let rows leave; each that stays behind the new end moves to the place of one that left.

        A row moves once at most for each that leaves, so all moves of a batch cost less than one copy of the cache.

        Returns:
            the old place of each row that stays.
        """
        count = sum(alive)
        targets = [place for place in range(count) if not alive[place]]
        sources = [place for place in range(count, len(alive)) if alive[place]]
        for layer in self.row_layers:
            layer.keep(count, targets, sources)
        order = list(range(count))
        for target, source in zip(targets, sources, strict=True):
            order[target] = source
        return order
