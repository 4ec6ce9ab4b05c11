"""Batches of rows of similar length, in an order that can be repeated and resumed."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from torch.utils.data import Sampler

WINDOW_BATCHES = 32
"""Rows are sorted by length within so many batches: enough for little padding, few enough to stay random."""


def check_divides(name: str, batch_size: int, world_size: int) -> None:
    """Check that a global batch divides evenly over all ranks. Raises ValueError."""
    if batch_size % world_size:
        raise ValueError(
            f"{name} is {batch_size} and cannot be divided over {world_size} processes; "
            "it counts the rows of all of them, so make it a multiple of their number"
        )


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Yields this rank's row indices of each global batch, epoch after epoch without end.

    Batch number n of a run is a pure function of (seed, n): a resume needs the number of completed batches and nothing
    else, and epochs need no announcement. `len` is the batches of one epoch, which is how Lightning counts epochs.

    The batches are formed over all rows before the ranks divide them, so the order is a pure function of
    (seed, epoch), and any number of ranks sees the same global batches. With shuffling: shuffle the rows, set aside
    those that do not fill a batch, sort the others by length within windows of `WINDOW_BATCHES` batches, cut, shuffle
    the batches, and end with the short batch unless it is dropped. Without shuffling the rows keep their order and are
    not grouped.

    A rank takes every `world_size`-th row of a batch, which distributes the lengths of a sorted batch evenly. When
    shuffling, as in training, the last batch must divide evenly, since ranks are averaged with equal weight. Without
    shuffling, as in validation, slices may differ by one row, provided that every rank has one.

    Args:
        lengths: length of every row.
        batch_size: rows of a global batch, over all ranks.
        shuffle: new order in every epoch; False keeps the order of `lengths`.
        seed: seed of the order.
        drop_last: leave out the last batch if it is short.
        group_by_length: put rows of similar length together; has no effect without shuffling.
        rank: index of this process.
        world_size: number of processes.
        completed_batches: called when iteration starts; the batches that the run has already consumed, over all epochs.
            Without it, iteration starts at the first batch and ends after one epoch.
        only_batches: repeat so many batches, the first of the first epoch, instead of reading on. `len` stays that of
            all rows.

    Raises:
        ValueError: the rows cannot be divided into batches, or a batch over the ranks, as asked.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        drop_last: bool,
        group_by_length: bool = True,
        rank: int = 0,
        world_size: int = 1,
        completed_batches: Callable[[], int] | None = None,
        only_batches: int | None = None,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.group_by_length = group_by_length
        self.rank = rank
        self.world_size = world_size
        self.completed_batches = completed_batches
        self.only_batches = only_batches
        self._check()

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        if self.completed_batches is None:
            yield from self._of_rank(self._global_batches(0))
            return
        first_epoch, start = divmod(self.completed_batches(), min(self.only_batches or len(self), len(self)))
        for epoch in count(first_epoch):
            batches = self._global_batches(0 if self.only_batches else epoch)[: self.only_batches]
            yield from self._of_rank(batches[start:])
            start = 0

    def _of_rank(self, batches: list[list[int]]) -> Iterator[list[int]]:
        return (batch[self.rank :: self.world_size] for batch in batches)

    def _global_batches(self, epoch: int) -> list[list[int]]:
        rows = list(range(len(self.lengths)))
        generator = random.Random(f"{self.seed}:{epoch}")  # a string keeps (0, 1) and (1, 0) apart
        if self.shuffle:
            generator.shuffle(rows)
        num_full = len(rows) - len(rows) % self.batch_size
        # The rest is set aside before sorting; afterwards it would always be the longest rows.
        rows, rest = rows[:num_full], rows[num_full:]
        if self.shuffle and self.group_by_length:
            window = WINDOW_BATCHES * self.batch_size
            rows = [
                row
                for start in range(0, num_full, window)
                for row in sorted(rows[start : start + window], key=self.lengths.__getitem__)
            ]
        batches = [rows[start : start + self.batch_size] for start in range(0, num_full, self.batch_size)]
        if self.shuffle:
            generator.shuffle(batches)
        return batches if self.drop_last or not rest else [*batches, rest]

    def _check(self) -> None:
        if self.batch_size < 1 or self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, rank {self.rank}, world_size {self.world_size}; "
                "expected batch_size >= 1 and 0 <= rank < world_size"
            )
        check_divides("batch_size", self.batch_size, self.world_size)
        if len(self) == 0:
            raise ValueError(
                f"{len(self.lengths)} rows give no batch of batch_size {self.batch_size} "
                f"(drop_last={self.drop_last}); use more data or a smaller data.init_args.batch_size"
            )
        rest = len(self.lengths) % self.batch_size
        if self.drop_last or rest == 0:
            return
        if self.shuffle and rest % self.world_size:
            raise ValueError(
                f"the last batch has {rest} rows and cannot be divided evenly over {self.world_size} ranks; "
                "set drop_last=True or change batch_size"
            )
        if rest < self.world_size:
            raise ValueError(
                f"the last batch has {rest} rows, fewer than the {self.world_size} ranks; "
                "change batch_size, use fewer ranks or set drop_last=True"
            )
