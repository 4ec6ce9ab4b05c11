"""The socket of reward objectives: what a judge or a scalar reward model says of pairs in, one loss for each pair out.

Shape letters: B pairs of a batch, R readings of each pair, V tokens of the vocabulary, H heads of a scalar model, P
passes with dropout, D numbers of a hidden state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    chosen_states: Tensor | None = None
    """[P, B, D] last hidden state at the end of chosen in each pass with dropout, with gradient; None without any."""
    rejected_states: Tensor | None = None
    """[P, B, D] that of rejected."""
    trace_nll: Tensor | None = None
    """[B] mean negative log-likelihood of what the model writes about either response, with gradient; None unless the
    objective needs traces."""
    thought_margins: Tensor | None = None
    """[n, R, B] log-odds that the response shown first is better, after each of n sampled thoughts, with gradient; None
    of a judge without thoughts. `margin` is then their mean in probability."""
    thought_logprobs: Tensor | None = None
    """[n, R, B] log-probability of each of these thoughts, its end included, with gradient."""

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
        for name in ("chosen_states", "rejected_states"):
            if (states := getattr(self, name)) is not None:
                check_shape(name, states, (states.shape[0], pairs, states.shape[-1]))
        for name in ("thought_margins", "thought_logprobs"):
            if (thoughts := getattr(self, name)) is not None:
                check_shape(name, thoughts, (thoughts.shape[0], readings, pairs))
        if self.trace_nll is not None:
            check_shape("trace_nll", self.trace_nll, (pairs,))
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

    def thoughts(self) -> tuple[Tensor, Tensor]:
        """Return margins and log-probabilities of the sampled thoughts: [n, R, B] each.

        Raises:
            ValueError: when there are none.
        """
        if self.thought_margins is None or self.thought_logprobs is None:
            raise ValueError("there are no thoughts; an objective that reads them declares needs_thoughts")
        return self.thought_margins, self.thought_logprobs

    def text_nll(self) -> Tensor:
        """Return the mean negative log-likelihood of the traces of each pair: [B].

        Raises:
            ValueError: when there are no traces.
        """
        if self.trace_nll is None:
            raise ValueError("there are no traces; an objective that reads them declares needs_traces = True")
        return self.trace_nll

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

    def dropout_states(self) -> tuple[Tensor, Tensor]:
        """Return the hidden states at the ends of chosen and of rejected in each pass with dropout: [P, B, D] each.

        Raises:
            ValueError: when there are none.
        """
        if self.chosen_states is None or self.rejected_states is None:
            raise ValueError("there are no hidden states; an objective that reads them declares dropout_passes")
        return self.chosen_states, self.rejected_states


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
    needs_traces: bool = False
    """Whether each response is read with a trace, a column of the data, whose likelihood it reads. Only a scalar model
    gives that, which is then a language model with a scalar head."""
    learns_observations: bool = False
    """Whether the likelihood of traces counts what tools answered too."""
    needs_thoughts: int = 0
    """Fewest thoughts of each reading that it reads; 0 for an objective of verdicts alone. Only `ReasoningRewardModule`
    samples them."""
    columns: tuple[str, ...] = ()
    """Columns of the data that hold a number for each row, such as margins or ratings."""
    optional_columns: tuple[str, ...] = ()
    """Columns that hold a number in some rows, and nothing or null in others. Each row has at least one of them, and
    each of them is in some row. Only a scalar model reads them."""
    dropout_passes: int = 0
    """Passes with dropout over the responses of each pair, beside the plain one that rewards are read from. Whoever
    names any reads `chosen_states` and `rejected_states`. Only a scalar model makes them."""
    dropout: float = 0.1
    """Share that is dropped in these passes, wherever the architecture has a dropout."""
    look_ahead: float = 0.0
    """Step size of an ascent on `ascended`, from which each gradient is taken; the step itself starts from the weights
    before it. 0 for none. Only a scalar model takes it, whose stage then has `unlabelled` responses."""
    unlabelled_prompts: int = 0
    """Prompts whose unlabelled responses each of these ascents reads."""

    @abstractmethod
    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""

    def ascended(self, rewards: Tensor) -> Tensor:
        """Compute what a look-ahead ascends, of the rewards of unlabelled responses to one prompt: [k] -> scalar."""
        raise NotImplementedError(f"{type(self).__name__} names a look_ahead, but has no ascended()")


NEEDS = tuple(RewardObjective.__annotations__)
"""What an objective may declare, for one that is made of another."""


class WrappedObjective(RewardObjective):
    """Base of an objective that is made of another one: it needs what that one needs, and keeps its state.

    Args:
        objective: the other one.
    """

    def __init__(self, objective: RewardObjective) -> None:
        self.objective = objective
        for need in NEEDS:
            setattr(self, need, getattr(objective, need))

    def ascended(self, rewards: Tensor) -> Tensor:
        """Compute what a look-ahead of the other objective ascends: [k] -> scalar."""
        return self.objective.ascended(rewards)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the other objective; nothing where it has none."""
        state = getattr(self.objective, "state_dict", None)
        return {} if state is None else state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state of the other objective."""
        if (load := getattr(self.objective, "load_state_dict", None)) is not None:
            load(state)
