"""Passes of a frozen reference in which the bits of a pair do not depend on the pairs beside it.

In floating point a number depends on the shape of the pass that it is computed in. It does not depend on the other
rows, nor on its place among them, as long as every row goes through the same instructions. So a pair is padded to a
width that follows from its own length alone, and read in a pass that always has the same number of pairs; places that
are left over repeat a pair, and the language head reads the same number of tokens at a time.

That is a property of the model and of the libraries below it, not a promise of theirs: a mixture of experts, for one,
may sort the tokens of all rows by expert. Each shape is therefore tried before it is relied on, and where a bit moves,
pairs of this shape are read alone.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from prl.distributed import gathered, global_max
from prl.models.limits import most_positions
from prl.models.logprobs import completion_logprobs, completion_mask
from prl.rl.sharding import Sharding

Pair = tuple[Tensor, Tensor, Tensor]
"""input_ids, attention_mask and loss_mask of the V responses of a pair: [V, S] each, S tokens of the longest."""
Shape = tuple[int, int, int]
"""Pairs of a pass, responses V of a pair, and tokens of the longest response with its padding."""
WIDE = 64
"""Widths are multiples of this from here on, and of a quarter of it below."""
CPU_TOKENS, TOKENS = 256, 2048
"""Most tokens of a pass of several pairs, on a CPU and elsewhere, where more of them fill the processor."""
HEAD_TOKENS = 256
"""Most tokens that the language head reads at a time."""


def pairs_of(batch: dict[str, Tensor]) -> list[Pair]:
    """Take a batch of B pairs apart, each without the padding that the others needed."""
    widths, names = batch["attention_mask"].sum(1).tolist(), ("input_ids", "attention_mask", "loss_mask")
    found = [[batch[name][rows, : max(widths[n] for n in rows)] for name in names] for rows in rows_of_pairs(batch)]
    return [(ids, attention, mask) for ids, attention, mask in found]


def rows_of_pairs(batch: dict[str, Tensor]) -> list[list[int]]:
    """List the rows of each pair of a batch."""
    found: list[list[int]] = [[] for _ in batch["targets"]]
    for row, pair in enumerate(batch["pairs"].tolist()):
        found[pair].append(row)
    return found


@torch.no_grad()
def read_pairs(model: Any, pairs: list[Pair], sharding: Sharding) -> list[Tensor]:
    """Compute the log-probabilities of the responses of each pair: [V, T] each.

    Args:
        model: the reference.
        pairs: at least one.
        sharding: where weights are cut, all processes make equally many passes.
    """
    shapes = [shape_of(pair, most_positions(model.config)) for pair in pairs]
    steady = _steady_shapes(model, shapes, pairs[0][0].device, sharding)
    dealt = list(_dealt(shapes, steady))
    passes = len(dealt)
    if sharding.cuts_weights:
        passes = int(global_max(torch.tensor(passes, device=sharding.device)))
    found: dict[int, Tensor] = {}
    for numbers, shape in dealt + dealt[-1:] * (passes - len(dealt)):
        found.update(zip(numbers, _read([pairs[n] for n in numbers], shape, model), strict=True))
    return [found[number] for number in range(len(pairs))]


def shape_of(pair: Pair, positions: int | None) -> Shape | None:
    """Choose the shape of the pass that reads a pair, from the pair alone; None where it is read by itself.

    Args:
        pair: its responses.
        positions: most tokens that the model can read; None for no limit.
    """
    views, length = pair[0].shape
    # Wider than each row: without any padding, transformers leaves out the mask, and other kernels run.
    width = length + _step(length) - length % _step(length)
    size = (CPU_TOKENS if pair[0].device.type == "cpu" else TOKENS) // (views * width)
    return None if size < 2 or (positions is not None and width > positions) else (size, views, width)


def _step(length: int) -> int:
    return WIDE // 4 if length < WIDE else WIDE


def _dealt(shapes: list[Shape | None], steady: set[Shape]) -> Iterator[tuple[list[int], Shape | None]]:
    """Deal the numbers of pairs into passes of one shape each; None for a pair that is read by itself."""
    groups: dict[Shape, list[int]] = {}
    for number, shape in enumerate(shapes):
        if shape is None or shape not in steady:
            yield [number], None
        else:
            groups.setdefault(shape, []).append(number)
    for shape, numbers in groups.items():
        for start in range(0, len(numbers), shape[0]):
            yield numbers[start : start + shape[0]], shape


def _read(pairs: list[Pair], shape: Shape | None, model: Any) -> list[Tensor]:
    """Compute the log-probabilities of the responses of some pairs in one pass: [V, T] each."""
    if shape is None:
        return [completion_logprobs(model, *pairs[0])[0]]
    size, views, width = shape
    again = [(ids, attention, torch.zeros_like(loss)) for ids, attention, loss in pairs[-1:]] * (size - len(pairs))
    columns = zip(*pairs, *again, strict=True)
    ids, attention, loss = (torch.cat([pad(each, (0, width - each.shape[1])) for each in parts]) for parts in columns)
    together, _ = completion_logprobs(model, ids, attention, loss, head_tokens=HEAD_TOKENS)
    ends = [completion_mask(pair[2]).shape[1] for pair in pairs]
    return [rows[:, :end] for rows, end in zip(together.split(views), ends, strict=False)]


# ---- whether bits stay


def _steady_shapes(model: Any, shapes: list[Shape | None], device: torch.device, sharding: Sharding) -> set[Shape]:
    """Find the shapes in which no bit of this model depends on the company; each is tried once.

    Where weights are cut, all processes try what any of them needs.
    """
    needed = {shape for shape in shapes if shape is not None}
    if sharding.cuts_weights:
        needed = set().union(*gathered(needed))
    tried: dict[Shape, bool] = model.__dict__.setdefault("_prl_steady_shapes", {})
    for shape in sorted(needed - tried.keys()):
        tried[shape] = _is_steady(model, shape, device)
    return {shape for shape, is_steady in tried.items() if is_steady}


def _is_steady(model: Any, shape: Shape, device: torch.device) -> bool:
    """Read some random pairs twice, the second time each in the next place, and the last and longest one replaced."""
    size, views, width = shape
    shortest = max(2, width - _step(width - 1))
    random = torch.Generator().manual_seed(0)

    def made(length: int) -> Pair:
        ids = torch.randint(model.config.get_text_config().vocab_size, (views, length), generator=random)
        starts = torch.randint(1, length, (views, 1), generator=random)
        loss = torch.arange(length) >= starts
        return ids.to(device), torch.ones_like(loss).to(device), loss.to(device)

    first, (longest, other) = [made(shortest) for _ in range(size - 1)], (made(width - 1), made(shortest))
    before, after = _read([*first, longest], shape, model), _read([other, *first], shape, model)
    return all(torch.equal(one, two) for one, two in zip(before[:-1], after[1:], strict=True))
