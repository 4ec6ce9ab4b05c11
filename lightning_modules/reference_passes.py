"""Passes of a frozen reference in which the bits of a pair do not depend on the pairs beside it.

In floating point a number depends on the shape of the pass that it is computed in. It does not depend on the other
rows, nor on its place among them, as long as every row goes through the same instructions. So a pair is padded to a
width that follows from its own length alone, and read in a pass that always has the same number of pairs; places that
are left over repeat a pair, and the language head reads the same number of tokens at a time. Whether a pair is read as
plain rows or as trees (`prl/models/prefix_sharing`), and as which, follows from the pair alone as well.

That is a property of the model and of the libraries below it, not a promise of theirs: a mixture of experts, for one,
may sort the tokens of all rows by expert. Each shape is therefore tried before it is relied on, and where a bit moves,
pairs of this shape are read alone.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from prl.distributed import gathered, global_max
from prl.models.limits import most_positions
from prl.models.logprobs import completion_logprobs, completion_mask
from prl.models.prefix_sharing.completions import read_packed_completions, readings_of
from prl.models.prefix_sharing.packing import pack, tree_size
from prl.models.prefix_sharing.tree_attention import PrefixSharing
from prl.rl.sharding import Sharding

Pair = tuple[Tensor, Tensor, Tensor]
"""input_ids, attention_mask and loss_mask of the V responses of a pair: [V, S] each, S tokens of the longest."""


class Shape(NamedTuple):
    """Shape of a pass of several pairs."""

    pairs: int
    rows: int
    """Rows of a pair: its responses V, or its trees."""
    width: int
    """Tokens of a row, padding included."""
    trees: bool = False


class Piece(NamedTuple):
    """A pair, and how it is read."""

    pair: Pair
    trees: list[list[int]] | None
    """Numbers of the responses of each tree; None for plain rows."""
    shape: Shape | None
    """None for a pair that is read by itself."""


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
def read_pairs(model: Any, pairs: list[Pair], sharding: Sharding, sharing: PrefixSharing | None = None) -> list[Tensor]:
    """Compute the log-probabilities of the responses of each pair: [V, T] each.

    Args:
        model: the reference.
        pairs: at least one.
        sharding: where weights are cut, all processes make equally many passes.
        sharing: decides which pairs are read as trees; None for none.

    Raises:
        PrefixSharingError: when the model cannot read trees, and is to.
    """
    pieces = [_piece(model, pair, sharing or PrefixSharing("off")) for pair in pairs]
    shapes = [piece.shape for piece in pieces]
    steady = _steady_shapes(model, shapes, pairs[0][0].device, sharding)
    dealt = list(_dealt(shapes, steady))
    passes = len(dealt)
    if sharding.cuts_weights:
        passes = int(global_max(torch.tensor(passes, device=sharding.device)))
    found: dict[int, Tensor] = {}
    for numbers, shape in dealt + dealt[-1:] * (passes - len(dealt)):
        found.update(zip(numbers, _read([pieces[n] for n in numbers], shape, model), strict=True))
    return [found[number] for number in range(len(pairs))]


def _piece(model: Any, pair: Pair, sharing: PrefixSharing) -> Piece:
    ids, attention, _ = pair
    if sharing.mode != "off":
        readings = readings_of(ids, attention)
        trees, plain = sharing.pass_rows(model, [list(range(len(readings)))], readings), sum(map(len, readings))
        sizes = [tree_size([readings[n] for n in tree]) for tree in trees or []]
        sharing.tokens.add(plain, sum(sizes) or plain, len(sizes) * max(sizes, default=0) or ids.numel())
        if trees is not None:
            length = max(sizes)
            return Piece(pair, trees, shape_of(len(trees), length, ids.device, None, trees=True))
    return Piece(pair, None, shape_of(len(ids), ids.shape[1], ids.device, most_positions(model.config)))


def shape_of(
    rows: int, length: int, device: torch.device, positions: int | None, *, trees: bool = False
) -> Shape | None:
    """Choose the shape of the pass that reads a pair, from the pair alone; None where it is read by itself.

    Args:
        rows: of the pair.
        length: tokens of the longest of them.
        device: where it is read.
        positions: most tokens that the model can read; None for no limit, and for trees, whose padding has none.
        trees: whether the rows are trees.
    """
    # Wider than each row: without any padding, transformers leaves out the mask, and other kernels run.
    width = length + _step(length) - length % _step(length)
    size = (CPU_TOKENS if device.type == "cpu" else TOKENS) // (rows * width)
    return None if size < 2 or (positions is not None and width > positions) else Shape(size, rows, width, trees)


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


def _read(pieces: list[Piece], shape: Shape | None, model: Any) -> list[Tensor]:
    """Compute the log-probabilities of the responses of some pairs in one pass: [V, T] each."""
    size, width, head_tokens = (1, 0, None) if shape is None else (shape.pairs, shape.width, HEAD_TOKENS)
    pairs = [piece.pair for piece in pieces]
    again = [(ids, attention, torch.zeros_like(loss)) for ids, attention, loss in pairs[-1:]] * (size - len(pairs))
    columns = list(zip(*pairs, *again, strict=True))
    trees = [each.trees for each in [*pieces, *pieces[-1:] * len(again)] if each.trees is not None]
    sizes = [len(each) for each in columns[0]]
    longest = max(width * (not trees), *(each.shape[1] for each in columns[0]))
    ids, attention, loss = (torch.cat([pad(each, (0, longest - each.shape[1])) for each in parts]) for parts in columns)
    if trees:
        starts = [0, *accumulate(sizes)]
        rows = [[start + n for n in row] for start, each in zip(starts, trees, strict=False) for row in each]
        packed = pack(rows, readings_of(ids, attention), 0, width).to(ids.device)
        together = read_packed_completions(model, packed, ids, loss, head_tokens=head_tokens).logprobs
    else:
        together, _ = completion_logprobs(model, ids, attention, loss, head_tokens=head_tokens)
    ends = [completion_mask(pair[2]).shape[1] for pair in pairs]
    return [rows[:, :end] for rows, end in zip(together.split(sizes), ends, strict=False)]


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
    size, rows, width, trees = shape
    shortest = max(2 + trees, width - _step(width - 1))
    random = torch.Generator().manual_seed(0)

    def made(length: int) -> Piece:
        """Make rows of `length` tokens; as trees each of them two responses of equal length behind one prompt."""
        prompt = 2 - length % 2 + 2 * int(torch.randint((length - 1) // 2, (), generator=random)) if trees else 0
        number, each = rows * (1 + trees), (length + prompt) // (1 + trees)
        ids = torch.randint(model.config.get_text_config().vocab_size, (number, each), generator=random)
        starts = torch.randint(1, each, (number, 1), generator=random)
        if trees:
            ids[1::2, :prompt] = ids[::2, :prompt]
        loss = torch.arange(each) >= starts
        pair = ids.to(device), torch.ones_like(loss).to(device), loss.to(device)
        return Piece(pair, [[n, n + 1] for n in range(0, number, 2)] if trees else None, shape)

    first, (longest, other) = [made(shortest) for _ in range(size - 1)], (made(width - 1), made(shortest))
    before, after = _read([*first, longest], shape, model), _read([other, *first], shape, model)
    return all(torch.equal(one, two) for one, two in zip(before[:-1], after[1:], strict=True))
