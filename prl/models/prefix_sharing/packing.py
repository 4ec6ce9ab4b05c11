"""Readings with shared beginnings packed as a tree in one row: each shared token is computed once (docs/judge.md)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_TREE = 64
"""Readings of one row; bounds the time that `plan_rows` takes."""


class Packed(NamedTuple):
    """N readings in R rows of L tokens; every row is a tree whose paths from the root are its readings.

    The last token of a reading is never shared and stands at the end of its row, so that the language head runs on the
    last few positions only. All other tokens stand in depth-first order.
    """

    input_ids: Tensor
    """[R, L], left padded."""
    depth: Tensor
    """[R, L]: index of the token in its own reading, which is its position id."""
    preorder: Tensor
    """[R, L]: number of the token in depth-first order; -1 in the padding."""
    subtree_end: Tensor
    """[R, L]: first preorder number behind the token's subtree; 0 in the padding."""
    row: Tensor
    """[N]: row of each reading."""
    column: Tensor
    """[N]: index of each reading's last token among the last `num_columns` of the row."""
    num_columns: int
    """Readings of the fullest row."""
    num_tokens: int
    """Tokens without padding."""
    num_plain_tokens: int
    """Tokens of the readings, each read whole."""

    def visible(self) -> Tensor:
        """Return whether a query (second last axis) sees a key (last axis), its ancestors and itself: [R, L, L] bool.

        Padding sees padding, since a softmax over nothing is not a number.
        """
        query, key, end = self.preorder[:, :, None], self.preorder[:, None, :], self.subtree_end[:, None, :]
        return (key <= query) & (query < end)

    def last(self) -> Tensor:
        """Return the index in its row of each reading's last token: [N]."""
        return self.input_ids.shape[1] - self.num_columns + self.column

    def parents(self) -> Tensor:
        """Return the index in its row of each token's parent; 0 where there is none: [R, L]."""
        before = self.visible() & (self.depth[:, None, :] == self.depth[:, :, None] - 1)
        return before.int().argmax(-1)

    def num_readers(self, counted_from: Tensor) -> Tensor:
        """Count the readings that hold each token and count it: [R, L].

        Args:
            counted_from: [N] tokens at the beginning of each reading that do not count.
        """
        counted = self.visible()[self.row, self.last()] & (self.depth[self.row] >= counted_from[:, None])
        return torch.zeros_like(self.input_ids).index_add(0, self.row, counted.long())

    def paths(self) -> Tensor:
        """Return the indices in its row of each reading's tokens, in order, and 0 behind its end: [N, S]."""
        number = self.preorder[self.row]
        last = number.gather(1, self.last()[:, None])
        reading, index = ((number <= last) & (last < self.subtree_end[self.row])).nonzero(as_tuple=True)
        depth = self.depth[self.row[reading], index]
        found = torch.zeros(len(self.row), int(depth.max()) + 1, dtype=torch.long, device=depth.device)
        found[reading, depth] = index
        return found

    def to(self, device: torch.device) -> "Packed":
        """Move the tensors to a device."""
        ids, depth, preorder, subtree_end, row, column = (tensor.to(device) for tensor in self[:6])
        return Packed(ids, depth, preorder, subtree_end, row, column, *self[6:])


def shared_length(a: list[int], b: list[int]) -> int:
    """Count the tokens that two readings can share from the beginning: each keeps its last token."""
    same, differing = 0, min(len(a), len(b))  # bisection, whose comparisons of slices are fast
    while differing - same > 1:
        middle = (same + differing) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            differing = middle
    return same


def tree_size(readings: list[list[int]]) -> int:
    """Count the tokens of one row of readings, of which neighbours share their beginnings."""
    return sum(map(len, readings)) - sum(map(shared_length, readings, readings[1:]))


def pack(rows: list[list[int]], readings: list[list[int]], pad_id: int, width: int = 0) -> Packed:
    """Lay readings out as trees.

    Args:
        rows: numbers of the readings in each row; together every reading once. Neighbours that begin alike share.
        readings: token ids, none of them empty.
        pad_id: id of the padding.
        width: least number of tokens L of a row.
    """
    trees = [_tree([readings[i] for i in numbers]) for numbers in rows]
    width = max(width, *(tree.shape[1] for tree in trees))
    stacked = torch.tensor([pad_id, 0, -1, 0])[:, None, None].repeat(1, len(trees), width)
    for i, tree in enumerate(trees):
        stacked[:, i, width - tree.shape[1] :] = tree
    num_columns = max(map(len, rows))
    row, column = torch.zeros(2, len(readings), dtype=torch.long)
    for i, numbers in enumerate(rows):
        row[numbers] = i
        column[numbers] = torch.arange(num_columns - len(numbers), num_columns)
    ids, depth, preorder, subtree_end = stacked
    num_tokens = sum(tree.shape[1] for tree in trees)
    return Packed(ids, depth, preorder, subtree_end, row, column, num_columns, num_tokens, sum(map(len, readings)))


def _tree(readings: list[list[int]]) -> Tensor:
    """Build ids, depths, preorder numbers and subtree ends of one row: [4, L]."""
    shared = [0, *map(shared_length, readings, readings[1:])]
    sizes = [len(reading) - kept for reading, kept in zip(readings, shared, strict=True)]
    starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    below = torch.full((max(map(len, readings)),), starts.pop())  # for each depth: where the next branch begins
    bodies, leaves = [], []
    for reading, kept, start in reversed(list(zip(readings, shared, starts, strict=True))):
        depth = torch.arange(kept, len(reading))
        preorder = start + depth - kept
        subtree_end = below[kept : len(reading)].clone()
        subtree_end[-1] = preorder[-1] + 1
        below[kept:] = start
        branch = torch.stack([torch.tensor(reading[kept:]), depth, preorder, subtree_end])
        bodies.append(branch[:, :-1])
        leaves.append(branch[:, -1:])
    return torch.cat(bodies[::-1] + leaves[::-1], dim=1)


@dataclass(frozen=True)
class CostModel:
    """Cost of a row, in tokens of a very short row. The default counts tokens alone."""

    attention_length: float = math.inf
    """Length at which attention, which grows with the square, costs as much as the rest of the network."""
    overhead: float = 0.0
    """Extra cost of a tree over a plain row of its length, as a share."""

    def row(self, length: int) -> float:
        """Return the cost of one reading alone in a row of `length` tokens."""
        return length * (1 + length / self.attention_length)

    def tree(self, length: int) -> float:
        """Return the cost of a tree of several readings in `length` tokens."""
        return self.row(length) * (1 + self.overhead)


def plan_rows(readings: list[list[int]], max_tokens: int, cost: CostModel) -> list[list[int]]:
    """Choose which readings share a row, so that the total cost is least; rows are lists of reading numbers.

    Sorted, readings that begin alike are neighbours, and dynamic programming finds the best way to cut this sequence
    into rows. Larger trees save tokens, but the cost of attention is quadratic in the row.

    Args:
        readings: token ids.
        max_tokens: longest row of several readings.
        cost: cost of a row.
    """
    order = sorted(range(len(readings)), key=lambda i: readings[i])
    ordered = [readings[i] for i in order]
    shared = [0, *map(shared_length, ordered, ordered[1:])]
    best, first = [0.0], []  # cost of the best rows of the first i readings; where the last of these rows begins
    for last, reading in enumerate(ordered):
        least, begin = best[last] + cost.row(len(reading)), last
        added = 0
        for start in range(last - 1, max(-1, last - LARGEST_TREE), -1):
            added += len(ordered[start + 1]) - shared[start + 1]
            size = len(ordered[start]) + added
            if size > max_tokens:
                break
            if best[start] + cost.tree(size) < least:
                least, begin = best[start] + cost.tree(size), start
        best.append(least)
        first.append(begin)
    rows, end = [], len(ordered)
    while end > 0:
        rows.append(order[first[end - 1] : end])
        end = first[end - 1]
    return rows[::-1]


WIDTHS = 8
"""Most widths that `plan_pass` compares."""


def plan_pass(groups: list[list[int]], readings: list[list[int]], widest: int, cost: CostModel) -> list[list[int]]:
    """Choose the rows of one padded pass, so that the number of rows times the cost of one is least.

    A wide row has room for a whole tree, and costs all others as much padding. So some widths are compared. Readings of
    a group share a tree where that is less work and the row has room for it; trees that are left fill up other rows.

    Args:
        groups: numbers of the readings that may share; together every reading once.
        readings: token ids.
        widest: most tokens of a row; at least those of the longest reading.
        cost: cost of a row.
    """
    longest = max(map(len, readings))
    free = [_plan_group(group, readings, widest, cost) for group in groups]
    sizes = sorted({longest, *(size for trees in free for size, _ in trees if size > longest)})
    best, least = [], math.inf
    for width in sizes[:: -(-len(sizes) // WIDTHS)] + sizes[-1:]:
        trees = [
            tree
            for group, found in zip(groups, free, strict=True)
            for tree in (
                found if max(size for size, _ in found) <= width else _plan_group(group, readings, width, cost)
            )
        ]
        rows = _filled(trees, width)
        if (total := len(rows) * cost.tree(width)) < least:
            best, least = rows, total
    return best


Tree = tuple[int, list[int]]
"""Tokens of a tree, and the numbers of its readings."""


def _plan_group(group: list[int], readings: list[list[int]], widest: int, cost: CostModel) -> list[Tree]:
    members = [readings[i] for i in group]
    rows = plan_rows(members, widest, cost)
    return [(tree_size([members[i] for i in row]), [group[i] for i in row]) for row in rows]


def _filled(trees: list[Tree], width: int) -> list[list[int]]:
    """Put trees into rows, the largest first, each into the first row that has room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for size, numbers in sorted(trees, key=lambda tree: tree[0], reverse=True):
        place = next((i for i, left in enumerate(room) if left >= size), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(width)
        rows[place] += numbers
        room[place] -= size
    return rows
