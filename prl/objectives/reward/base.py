"""The socket of reward objectives: what a judge or a scalar reward model says of pairs in, one loss for each pair out.

Shape letters: B pairs of a batch, R readings of each pair, V tokens of the vocabulary, H heads of a scalar model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from prl.objectives.skew_symmetric import SkewSymmetric
from prl.shapes import check_shape


@dataclass(frozen=True)
class PairBatch:
    """B preference pairs as a model reads them.

    A generative judge reads each pair in both orders, chosen first and then rejected first (R = 2), or in one of them
    (R = 1). A scalar reward model reads each response alone, which gives one margin (R = 1).

    Raises:
        ValueError: when shapes disagree.
    """

    margin: Tensor
    """[R, B] log-odds that the response shown first is better, with gradient. Of a scalar model: r(chosen) less
    r(rejected), or what the objective's operator makes of both."""
    chosen_first: Tensor
    """[R, B] bool, True where chosen is the response shown first."""
    target: Tensor
    """[B] probability that chosen is the better response."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """[B] numbers of the rows, by the names that the objective declares; NaN where a row has no optional one."""
    logits: Tensor | None = None
    """[R, B, V] logits of the verdict, with gradient; None unless the objective needs them."""
    verdict_ids: Tensor | None = None
    """[2] token ids of "first is better" and "second is better"; None without logits."""
    chosen_rewards: Tensor | None = None
    """[B, H] what each head of a scalar model says of chosen, with gradient; None without `head_weights` or
    `operator`."""
    rejected_rewards: Tensor | None = None
    """[B, H] what it says of rejected."""
    prompt_blocks: Tensor | None = None
    """[B, K] what a prompt head says of each block of the operator, with gradient; None without one."""

    def __post_init__(self) -> None:
        if self.margin.dim() != 2 or self.target.dim() != 1:
            shapes = f"{tuple(self.margin.shape)} and {tuple(self.target.shape)}"
            raise ValueError(f"margin and target have shapes {shapes}, expected [R, B] and [B]")
        readings, pairs = self.margin.shape[0], len(self)
        check_shape("margin", self.margin, (readings, pairs))
        check_shape("chosen_first", self.chosen_first, (readings, pairs))
        if self.chosen_first.dtype != torch.bool:
            raise ValueError(f"chosen_first is {self.chosen_first.dtype}, expected torch.bool")
        if self.logits is not None:
            check_shape("logits", self.logits, (readings, pairs, self.logits.shape[-1]))
        for name in ("chosen_rewards", "rejected_rewards"):
            if (rewards := getattr(self, name)) is not None:
                check_shape(name, rewards, (pairs, rewards.shape[-1]))
        if self.prompt_blocks is not None:
            check_shape("prompt_blocks", self.prompt_blocks, (pairs, self.prompt_blocks.shape[-1]))
        for name, column in self.columns.items():
            check_shape(f"columns[{name!r}]", column, (pairs,))

    def __len__(self) -> int:
        return self.target.shape[0]

    def of_first(self, target: Tensor) -> Tensor:
        """Turn probabilities that chosen is better into those of the response shown first: [B] -> [R, B]."""
        return torch.where(self.chosen_first, target, 1 - target)

    def chosen_margin(self) -> Tensor:
        """Compute the log-odds that chosen is better in each reading: [R, B]."""
        return torch.where(self.chosen_first, self.margin, -self.margin)

    def verdict_logits(self) -> tuple[Tensor, Tensor]:
        """Return the logits of the verdict, [R, B, V], and the [2] ids of its tokens.

        Raises:
            ValueError: when there are none.
        """
        if self.logits is None or self.verdict_ids is None:
            raise ValueError("there are no logits; an objective that reads them declares needs_logits = True")
        return self.logits, self.verdict_ids

    def head_rewards(self) -> tuple[Tensor, Tensor]:
        """Return what the heads of a scalar model say of chosen and of rejected: [B, H] each.

        Raises:
            ValueError: when they are not there.
        """
        if self.chosen_rewards is None or self.rejected_rewards is None:
            raise ValueError(
                "there are no rewards of heads; an objective that reads them declares head_weights or an operator"
            )
        return self.chosen_rewards, self.rejected_rewards


class RewardObjective(ABC):
    """One loss for each preference pair, of a judge or a scalar reward model.

    Weights of pairs, the mean over a batch and logging stay outside.

    The constructor has the settings of a method and checks them. What a method needs it declares, on its class or from
    its settings, and a run checks that before a model is read. One that reads margins alone serves judges and scalar
    models alike. A method whose `state_dict` and `load_state_dict` exist is saved with the run.
    """

    needs_both_orders: bool = False
    """Whether it reads both orders of a pair. Only a generative judge gives them."""
    needs_logits: bool = False
    """Whether it reads the logits of the verdict. Only a generative judge gives them."""
    head_weights: tuple[float, ...] = ()
    """Weight of each head in the reward of a scalar model. Whoever names any reads `chosen_rewards` and
    `rejected_rewards`, which only a scalar model gives; without, the model has one head and the objective reads its
    margin."""
    head_names: tuple[str, ...] = ()
    """Name of each head, for the exported folder; none where nobody weighs them by name."""
    operator: SkewSymmetric | None = None
    """Comparison of the embeddings of two responses; None for an objective whose model gives each response a reward.
    Whoever names one reads `chosen_rewards` and `rejected_rewards`, and `prompt_blocks` with a prompt head."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the data that hold a number for each row, such as margins or ratings."""
    optional_columns: tuple[str, ...] = ()
    """Columns that hold a number in some rows, and nothing or null in others. Each row has at least one of them, and
    each of them is in some row. Only a scalar model reads them."""

    @abstractmethod
    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
