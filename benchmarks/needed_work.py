"""Floating-point operations and bytes that a piece of work needs, and how fast this machine does either.

Every distinct beginning of the rows of one prompt counts once, padding never, attention is causal, and the language
head reads the tokens that count. Operations are those of matrix products: two for each weight and token.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

Ids = Sequence[int]
ADAMW_BYTES = 28
"""Bytes that AdamW moves for a float32 weight: weight, gradient and two moments read, all but the gradient written."""


@dataclass(frozen=True)
class Tokens:
    """Tokens that a model has to read."""

    count: int = 0
    attended: int = 0
    """Sum over the tokens of how many tokens each looks at, itself included."""

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.count + other.count, self.attended + other.attended)


def distinct_tokens(rows: Iterable[Ids]) -> Tokens:
    """Count tokens of rows, what several rows begin with once."""
    count, attended, before = 0, 0, ()
    for row in sorted(map(tuple, rows)):
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(row, before, strict=False)))
        count += len(row) - shared
        attended += (len(row) * (len(row) + 1) - shared * (shared + 1)) // 2
        before = row
    return Tokens(count, attended)


def plain_tokens(rows: Iterable[Ids]) -> Tokens:
    """Count tokens of rows, each as if it were alone."""
    return sum((distinct_tokens([row]) for row in rows), Tokens())


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, from which its work follows."""

    linear: int
    """Weights of matrices in the decoder layers."""
    layers: int
    width: int
    """Heads times the size of a head."""
    hidden: int
    vocabulary: int
    key_value: int
    """Numbers that a layer keeps of a token: its keys and values."""
    parameters: int

    @classmethod
    def of(cls, model: Any) -> "Shape":
        """Read the sizes off a causal language model; adapters do not count."""
        head, config = model.get_output_embeddings(), model.config
        linear = [
            (name, each)
            for name, each in model.named_modules()
            if isinstance(each, torch.nn.Linear) and each is not head and "lora_" not in name
        ]
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            linear=sum(each.weight.numel() for _, each in linear),
            layers=config.num_hidden_layers,
            width=size * config.num_attention_heads,
            hidden=config.hidden_size,
            vocabulary=head.out_features,
            key_value=2 * size * getattr(config, "num_key_value_heads", config.num_attention_heads),
            parameters=sum(each.numel() for name, each in model.named_parameters() if "lora_" not in name),
        )

    def forward(self, tokens: Tokens) -> float:
        """Operations of a forward pass of the decoder, without the language head."""
        return 2.0 * self.linear * tokens.count + 4.0 * self.layers * self.width * tokens.attended

    def head(self, tokens: int) -> float:
        """Operations of the language head."""
        return 2.0 * self.hidden * self.vocabulary * tokens


@dataclass(frozen=True)
class Rates:
    """Operations and bytes of this machine, per second."""

    operations: float
    """Floating-point operations of a float32 matrix product, at its best."""
    read: float
    """Bytes of a matrix that a product with a vector reads, at its best."""
    copied: float
    """Bytes read and written by a copy, at its best."""

    def best(self, other: "Rates") -> "Rates":
        """Take the better of two measurements of each rate."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Rates(*map(max, pairs))


def measure_rates(clock: Callable[[], float] = time.perf_counter, *, size: int = 1024, mib: int = 256) -> Rates:
    """Time a matrix product, a product with a vector, and a copy, several times each in turns.

    Args:
        clock: seconds.
        size: rows and columns of the matrices that are multiplied.
        mib: size of the matrix that is read and of the tensor that is copied; more than the caches hold.
    """
    square = torch.randn(size, size)
    tall, vector = torch.randn(mib * 2**20 // 4 // 1024, 1024), torch.randn(1024)
    into = torch.empty_like(tall)
    calls: list[Callable[[], Any]] = [lambda: square @ square, lambda: tall @ vector, lambda: into.copy_(tall)]
    amounts = (2.0 * size**3, 4.0 * tall.numel(), 8.0 * tall.numel())
    best = [float("inf")] * len(calls)
    for _ in range(6):
        for index, call in enumerate(calls):
            start = clock()
            call()
            best[index] = min(best[index], clock() - start)
    return Rates(*(amount / max(seconds, 1e-9) for amount, seconds in zip(amounts, best, strict=True)))


def sampling_seconds(shape: Shape, rates: Rates, prompts: Sequence[Ids], per_prompt: int, new: int) -> float:
    """Least seconds to sample `new` tokens for each prompt, `per_prompt` times, all rows in step.

    Prompts are read once. Each further token costs its operations, or reading weights, keys and values, whichever takes
    longer.
    """
    rows = len(prompts) * per_prompt
    seconds = (shape.forward(plain_tokens(prompts)) + shape.head(len(prompts))) / rates.operations
    context = per_prompt * sum(map(len, prompts))
    for step in range(1, new):
        tokens = Tokens(rows, context + rows * step)
        operations = shape.forward(tokens) + shape.head(rows)
        weights = shape.linear + shape.hidden * shape.vocabulary
        moved = 4.0 * (weights + shape.layers * shape.key_value * tokens.attended)
        seconds += max(operations / rates.operations, moved / rates.read)
    return seconds
