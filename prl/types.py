"""The records that flow through training. Shape letters: B responses, P prompt tokens, T response tokens, V vocabulary.

Every mask is bool and True means "counts". Shapes are checked once, when a record is made, and trusted afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prl.shapes import check_shape
from prl.verdict import Verdict

ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, str]
"""`{"role": one of ROLES, "content": text}`; other keys of a message are not kept, and the data report names them."""

Conversation = Sequence[Message]
"""Turns of a dialogue, oldest first."""


def _check_mask(name: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    check_shape(name, mask, shape)
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} has dtype {mask.dtype}, expected torch.bool (True = counts)")


@dataclass  # not frozen: Lightning's precision plugins refuse frozen dataclasses in batches
class PromptBatch:
    """Prompts ready for sampling, with the texts that the judge reads.

    Raises:
        ValueError: when shapes disagree.
    """

    prompt_ids: Tensor
    """[B, P] token ids, left padded."""
    prompt_mask: Tensor
    """[B, P] True on prompt tokens."""
    prompts: list[Conversation]
    """B conversations as messages; the judge encodes them with its own tokenizer."""
    anchors: list[tuple[str, ...]]
    """B tuples of anchor responses; the policy and the critic never see them."""
    extras: list[dict[str, Any]] = field(default_factory=list)
    """B rows of further columns of the data, for rules; empty when the rows had none."""
    group: Tensor = field(default=None)  # type: ignore[assignment]  # numbered when the batch is made
    """[B] number of the prompt, from 0 on each process; responses to one prompt share it."""

    def __post_init__(self) -> None:
        rows, width = self.prompt_ids.shape
        _check_mask("prompt_mask", self.prompt_mask, (rows, width))
        if self.group is None:
            self.group = torch.arange(rows, device=self.prompt_ids.device)
        check_shape("group", self.group, (rows,))
        if len(self.prompts) != rows or len(self.anchors) != rows:
            raise ValueError(f"{rows} prompt rows but {len(self.prompts)} prompts and {len(self.anchors)} anchor lists")
        if self.extras and len(self.extras) != rows:
            raise ValueError(f"{rows} prompt rows but {len(self.extras)} rows of extra columns")

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def to(self, device: torch.device) -> "PromptBatch":
        """Copy the batch to a device."""
        moved = {name: getattr(self, name).to(device) for name in ("prompt_ids", "prompt_mask", "group")}
        return replace(self, **moved)

    def anchored(self, anchors: list[tuple[str, ...]]) -> "PromptBatch":
        """Replace the anchors of the prompts."""
        return replace(self, anchors=anchors)

    def select(self, rows: Tensor) -> "PromptBatch":
        """Take some rows, by number or by a [B] mask, cut to the widest prompt among them."""
        mask = self.prompt_mask[rows]
        first = mask.shape[1] - int(mask.sum(1).max())
        numbers = torch.arange(len(self))[rows.cpu()].tolist()
        return PromptBatch(
            self.prompt_ids[rows, first:],
            mask[:, first:],
            [self.prompts[n] for n in numbers],
            [self.anchors[n] for n in numbers],
            [self.extras[n] for n in numbers] if self.extras else [],
            self.group[rows],
        )

    def repeat(self, times: int) -> "PromptBatch":
        """Repeat each prompt `times` times in a row, for several rollouts per prompt."""
        return PromptBatch(
            self.prompt_ids.repeat_interleave(times, 0),
            self.prompt_mask.repeat_interleave(times, 0),
            [prompt for prompt in self.prompts for _ in range(times)],
            [anchors for anchors in self.anchors for _ in range(times)],
            [extra for extra in self.extras for _ in range(times)],
            self.group.repeat_interleave(times),
        )


@dataclass(frozen=True)
class Rollout:
    """Prompts and the policy's responses: one record from sampling to the log. Raises ValueError on wrong shapes."""

    batch: PromptBatch
    """B prompts with anchors and extra columns; a prompt with several responses is repeated in adjacent rows."""
    response_ids: Tensor
    """[B, T] right padded."""
    response_mask: Tensor
    """[B, T] True on tokens that the policy made, the end-of-sequence token included. They alone are learnt from."""
    finished: Tensor
    """[B] True where the end-of-sequence token was sampled within the length limit."""
    texts: list[str]
    """B responses, decoded without any cleaning up; the token that ended each is left out."""
    max_new_tokens: int
    """Length limit of the responses, tokens."""
    context_mask: Tensor | None = None
    """[B, T] True on every token of the response that is not padding, also on those that the policy reads and did not
    make: the beginning of another response, an environment's turn. None where it made them all."""
    guided: Tensor | None = None
    """[B] bool, True where the response was drawn behind another prompt than its own; None where none was."""

    def __post_init__(self) -> None:
        rows = len(self.batch)
        _check_mask("response_mask", self.response_mask, tuple(self.response_ids.shape))
        if self.context_mask is not None:
            _check_mask("context_mask", self.context_mask, tuple(self.response_ids.shape))
            if bool((self.response_mask & ~self.context_mask).any()):
                raise ValueError("response_mask counts tokens that context_mask leaves out as padding")
        _check_mask("finished", self.finished, (rows,))
        if self.guided is not None:
            _check_mask("guided", self.guided, (rows,))
        if self.response_ids.shape[0] != rows or len(self.texts) != rows:
            raise ValueError(f"{rows} prompts but {self.response_ids.shape[0]} responses and {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def prompt_ids(self) -> Tensor:
        """[B, P] left padded."""
        return self.batch.prompt_ids

    @property
    def prompt_mask(self) -> Tensor:
        """[B, P] True on prompt tokens."""
        return self.batch.prompt_mask

    @property
    def group(self) -> Tensor:
        """[B] number of the prompt that each response answers."""
        return self.batch.group

    @property
    def input_ids(self) -> Tensor:
        """[B, P + T] prompt and response side by side."""
        return torch.cat([self.prompt_ids, self.response_ids], dim=1)

    @property
    def attention_mask(self) -> Tensor:
        """[B, P + T] True on every token that is not padding."""
        return torch.cat([self.prompt_mask, self.read_mask], dim=1)

    @property
    def read_mask(self) -> Tensor:
        """[B, T] True on every token of the response that is not padding, whoever made it."""
        return self.response_mask if self.context_mask is None else self.context_mask

    def anchored(self, anchors: list[tuple[str, ...]]) -> "Rollout":
        """Replace the anchors of the responses."""
        return replace(self, batch=self.batch.anchored(anchors))

    def without(self, rows: Tensor) -> "Rollout":
        """Empty the masks of the responses of `rows` ([B] bool), so that they count in no loss or mean."""
        kept = ~rows[:, None]
        context_mask = None if self.context_mask is None else self.context_mask & kept
        return replace(self, response_mask=self.response_mask & kept, context_mask=context_mask)

    def select(self, rows: Tensor) -> "Rollout":
        """Take some rows, cut to the widest prompt and response among them.

        Cutting is a pure function of the rows, so scoring before the update and inside it see the same tensors.
        """
        width = int(self.read_mask[rows].sum(1).max())
        return Rollout(
            self.batch.select(rows),
            self.response_ids[rows, :width],
            self.response_mask[rows, :width],
            self.finished[rows],
            [self.texts[n] for n in torch.arange(len(self))[rows.cpu()].tolist()],
            self.max_new_tokens,
            context_mask=None if self.context_mask is None else self.context_mask[rows, :width],
            guided=None if self.guided is None else self.guided[rows],
        )


class Critique(NamedTuple):
    """What is known of a response before it is rewarded."""

    response: str
    """Text that was graded, without thoughts where graders do not read them."""
    reward: float
    """Reward of the response, before shaping; NaN where it failed."""
    share: float
    """Share of the criteria that hold, by weight; it tells equal rewards apart."""
    failed: tuple[str, ...]
    """Criteria that do not hold."""


@dataclass(frozen=True)
class Scores:
    """Rewards of B responses, and the comparisons behind them. Raises ValueError when shapes disagree."""

    rewards: Tensor
    """[B] float32 reward of each response; NaN where it failed."""
    verdict: Verdict | None = None
    """N comparisons of a response (`a`) with one of its anchors (`b`); None without comparisons."""
    response_index: Tensor | None = None
    """[N] row of the response (`a`) of each comparison."""
    components: dict[str, Tensor] = field(default_factory=dict)
    """[B] each: rewards of the sources of a weighted sum, by their names."""
    token_rewards: Tensor | None = None
    """[B, T] dense rewards of single tokens, zero outside the mask; None without any."""
    left_out: Tensor | None = None
    """[B] True where a response has no reward on purpose, which is no failure; None for none."""
    step_marks: Tensor | None = None
    """[B, T] mark of the step that each token is in: 1 right, 0 wrong, NaN without a mark; None where nobody marks."""

    def __post_init__(self) -> None:
        if (self.verdict is None) != (self.response_index is None):
            raise ValueError("a verdict and the rows it is about come together")
        for name, each in self.components.items():
            check_shape(name, each, tuple(self.rewards.shape))

    def to(self, device: torch.device) -> "Scores":
        """Copy the scores to a device."""
        verdict, response_index = self.verdict, self.response_index
        if verdict is not None and response_index is not None:
            verdict = verdict.to(device)
            response_index = response_index.to(device)
        components = {name: each.to(device) for name, each in self.components.items()}
        moved = {}
        for name in ("token_rewards", "left_out", "step_marks"):
            value = getattr(self, name)
            moved[name] = None if value is None else value.to(device)
        return Scores(self.rewards.to(device), verdict, response_index, components, **moved)

    def with_rewards(self, rewards: Tensor) -> "Scores":
        """Replace the rewards, [B]; all else stays."""
        return replace(self, rewards=rewards)

    @property
    def failed(self) -> Tensor:
        """[B] True where there is no reward."""
        return self.rewards.isnan()

    @property
    def lost(self) -> Tensor:
        """[B] True where there is no reward although there should be one."""
        return self.failed if self.left_out is None else self.failed & ~self.left_out


@dataclass(frozen=True)
class Experience:
    """Constants that an update learns from; nothing writes to them later. Raises ValueError on wrong shapes."""

    rollout: Rollout
    old_logprobs: Tensor
    """[B, T] log-probability of each token that the policy made, under the policy then; zero outside the mask."""
    ref_logprobs: Tensor
    """[B, T] log-probability of each such token under the frozen reference; zero outside the mask."""
    values: Tensor | None
    """[B, T] the critic's value of the state before each token; None without a critic."""
    rewards: Tensor
    """[B] reward of each response, after shaping."""
    weights: Tensor
    """[B] weight of each response in the losses, set by filters; 1 without filters."""
    advantages: Tensor
    """[B, T] advantage of each token."""
    returns: Tensor | None
    """[B, T] targets of the critic; None without a critic."""
    microbatches: list[Tensor]
    """Row indices of each micro-batch. Scoring reads these very groups, which makes the first ratio exactly one."""

    def __post_init__(self) -> None:
        shape = tuple(self.rollout.response_ids.shape)
        for name in ("old_logprobs", "ref_logprobs", "values", "advantages", "returns"):
            if (value := getattr(self, name)) is not None:
                check_shape(name, value, shape)
        for name in ("rewards", "weights"):
            check_shape(name, getattr(self, name), shape[:1])

    @property
    def counted(self) -> Tensor:
        """[B] True where a response has tokens that count; one without a reward has none, and is in no mean."""
        return self.rollout.response_mask.any(1)

    def select(self, rows: Tensor) -> "Experience":
        """Take some rows, cut like `Rollout.select`."""
        rollout = self.rollout.select(rows)
        width = rollout.response_ids.shape[1]
        chosen: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                chosen[each.name] = value[rows, :width] if value.dim() == 2 else value[rows]
            elif value is None:
                chosen[each.name] = None
        return Experience(rollout=rollout, microbatches=[], **chosen)
