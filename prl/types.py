"""The records that flow through training. Shape letters: B responses, P prompt tokens, T response tokens, V vocabulary.

Every mask is bool and True means "counts". Shapes are checked once, when a record is made, and trusted afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, str]
"""`{"role": one of ROLES, "content": text}`; other keys of a message are not kept, and the data report names them."""

Conversation = Sequence[Message]
"""The turns of a dialogue, oldest first."""


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def _check_mask(name: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    _check_shape(name, mask, shape)
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} has dtype {mask.dtype}, expected torch.bool (True = counts)")


@dataclass  # not frozen: Lightning's precision plugins refuse frozen dataclasses in batches
class PromptBatch:
    """Prompts ready for sampling, with what the judge needs to know about them.

    Raises:
        ValueError: when shapes disagree.
    """

    prompt_ids: Tensor
    """[B, P] token ids, left padded."""
    prompt_mask: Tensor
    """[B, P] True on prompt tokens."""
    prompts: list[Conversation]
    """B conversations as messages; the judge reads these with its own tokenizer."""
    anchors: list[tuple[str, ...]]
    """B tuples of anchor responses; the policy and the critic never see them."""
    extras: list[dict[str, Any]] = field(default_factory=list)
    """B rows of columns that nobody else reads, for rules; empty when the rows had none."""
    group: Tensor = field(default=None)  # type: ignore[assignment]  # numbered when the batch is made
    """[B] number of the prompt: responses to one prompt have one number. Counted from 0 on each process."""

    def __post_init__(self) -> None:
        rows, width = self.prompt_ids.shape
        _check_mask("prompt_mask", self.prompt_mask, (rows, width))
        if self.group is None:
            self.group = torch.arange(rows, device=self.prompt_ids.device)
        _check_shape("group", self.group, (rows,))
        if len(self.prompts) != rows or len(self.anchors) != rows:
            raise ValueError(f"{rows} prompt rows but {len(self.prompts)} prompts and {len(self.anchors)} anchor lists")
        if self.extras and len(self.extras) != rows:
            raise ValueError(f"{rows} prompt rows but {len(self.extras)} rows of extra columns")

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def to(self, device: torch.device) -> "PromptBatch":
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("prompt_ids", "prompt_mask", "group")}
        return replace(self, **moved)

    def anchored(self, anchors: list[tuple[str, ...]]) -> "PromptBatch":
        """Give the prompts other anchors."""
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
        """Every prompt `times` times in a row: several rollouts per prompt."""
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
    """Prompts with what the policy answered: one record from sampling to the log. Raises ValueError on wrong shapes."""

    batch: PromptBatch
    """B prompts, several responses to a prompt in a row; anchors and extra columns stay with them."""
    response_ids: Tensor
    """[B, T] right padded."""
    response_mask: Tensor
    """[B, T] True on sampled tokens, the end-of-sequence token included."""
    finished: Tensor
    """[B] True where the end-of-sequence token was sampled within the length limit."""
    texts: list[str]
    """B responses as text, character by character what was sampled, without the token that ended each."""
    max_new_tokens: int
    """Length limit under which they were sampled, tokens."""

    def __post_init__(self) -> None:
        rows = len(self.batch)
        _check_mask("response_mask", self.response_mask, tuple(self.response_ids.shape))
        _check_mask("finished", self.finished, (rows,))
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
        return torch.cat([self.prompt_mask, self.response_mask], dim=1)

    def anchored(self, anchors: list[tuple[str, ...]]) -> "Rollout":
        """Give each response other anchors."""
        return replace(self, batch=self.batch.anchored(anchors))

    def without(self, rows: Tensor) -> "Rollout":
        """Leave the responses of `rows` ([B] bool) out of everything that is counted: their masks are empty."""
        return replace(self, response_mask=self.response_mask & ~rows[:, None])

    def select(self, rows: Tensor) -> "Rollout":
        """Take some rows, cut to the widest prompt and response among them.

        Cutting is a pure function of the rows, so scoring before the update and inside it see the same tensors.
        """
        response_mask = self.response_mask[rows]
        width = int(response_mask.sum(1).max())
        return Rollout(
            self.batch.select(rows),
            self.response_ids[rows, :width],
            response_mask[:, :width],
            self.finished[rows],
            [self.texts[n] for n in torch.arange(len(self))[rows.cpu()].tolist()],
            self.max_new_tokens,
        )


@dataclass(frozen=True)
class Verdict:
    """Both readings of N pairs (a, b) by a judge. Margins are log-odds that the response shown first is better.

    Debiasing follows DESIGN 1.1: an additive position bias cancels exactly in log-odds.
    """

    margin_ab: Tensor
    """[N] z(a, b): log-odds that a is better, with a shown first."""
    margin_ba: Tensor
    """[N] z(b, a): log-odds that b is better, with b shown first."""

    def __post_init__(self) -> None:
        _check_shape("margin_ba", self.margin_ba, tuple(self.margin_ab.shape))

    def __len__(self) -> int:
        return self.margin_ab.shape[0]

    def select(self, rows: Tensor) -> "Verdict":
        """Some of the pairs, by number or by a [N] mask."""
        return Verdict(self.margin_ab[rows], self.margin_ba[rows])

    @property
    def judged(self) -> Tensor:
        """[N] False where a judgement failed: there the other figures are NaN."""
        return ~(self.margin_ab.isnan() | self.margin_ba.isnan())

    @property
    def win_logit(self) -> Tensor:
        """[N] debiased log-odds that a beats b: half the difference of the two margins."""
        return (self.margin_ab - self.margin_ba) / 2

    @property
    def win_prob(self) -> Tensor:
        """[N] debiased probability that a beats b; swapping a and b gives exactly one minus it."""
        # Written so that p(u > v) + p(v > u) is 1 to the last bit: sigmoid itself is only symmetric up to rounding.
        logit = self.win_logit
        tail = torch.sigmoid(-logit.abs())
        return torch.where(logit > 0, 1 - tail, tail)

    @property
    def mean_prob(self) -> Tensor:
        """[N] the alternative average, of probabilities: (p(a, b) + 1 - p(b, a)) / 2."""
        return (torch.sigmoid(self.margin_ab) + 1 - torch.sigmoid(self.margin_ba)) / 2

    @property
    def position_bias(self) -> Tensor:
        """[N] log-odds given to the first place whatever stands there: what `win_logit` cancelled."""
        return (self.margin_ab + self.margin_ba) / 2

    @property
    def order_gap(self) -> Tensor:
        """[N] |p(a, b) + p(b, a) - 1|: zero for a judge that does not look at positions."""
        return (torch.sigmoid(self.margin_ab) + torch.sigmoid(self.margin_ba) - 1).abs()

    @property
    def flipped(self) -> Tensor:
        """[N] True where swapping the order changes the winner."""
        return self.margin_ab.sign() * self.margin_ba.sign() > 0


@dataclass(frozen=True)
class Scores:
    """What a reward source says of B responses. Raises ValueError when shapes disagree."""

    rewards: Tensor
    """[B] float32 reward of each response; NaN where it could not be had."""
    verdict: Verdict | None = None
    """N comparisons of a response (`a`) with one of its anchors (`b`), where there were any."""
    response_index: Tensor | None = None
    """[N] which response each comparison is about."""
    components: dict[str, Tensor] = field(default_factory=dict)
    """[B] each: what the sources of a mix said, by their names."""
    token_rewards: Tensor | None = None
    """[B, T] further rewards at single tokens, where there are any; zero outside the mask."""

    def __post_init__(self) -> None:
        if (self.verdict is None) != (self.response_index is None):
            raise ValueError("a verdict and the rows it is about come together")
        for name, each in self.components.items():
            _check_shape(name, each, tuple(self.rewards.shape))

    def to(self, device: torch.device) -> "Scores":
        """The same on another device."""
        verdict, response_index = self.verdict, self.response_index
        if verdict is not None and response_index is not None:
            verdict = Verdict(verdict.margin_ab.to(device), verdict.margin_ba.to(device))
            response_index = response_index.to(device)
        components = {name: each.to(device) for name, each in self.components.items()}
        token_rewards = None if self.token_rewards is None else self.token_rewards.to(device)
        return Scores(self.rewards.to(device), verdict, response_index, components, token_rewards)

    def with_rewards(self, rewards: Tensor) -> "Scores":
        """Give the responses other rewards, [B]; what the source said of comparisons stays."""
        return replace(self, rewards=rewards)

    @property
    def failed(self) -> Tensor:
        """[B] True where there is no reward."""
        return self.rewards.isnan()


@dataclass(frozen=True)
class Experience:
    """Everything an update needs, made of constants. Nothing later writes to it. Raises ValueError on wrong shapes."""

    rollout: Rollout
    old_logprobs: Tensor
    """[B, T] log-probability of each sampled token under the policy that sampled it; zero outside the mask."""
    ref_logprobs: Tensor
    """[B, T] the same under the frozen reference."""
    values: Tensor | None
    """[B, T] the critic's value of the state before each token; None without a critic."""
    rewards: Tensor
    """[B] reward of each response, after shaping."""
    weights: Tensor
    """[B] how much each response counts in the losses, as filters decided; 1 without filters."""
    advantages: Tensor
    """[B, T] weight of each token's log-probability."""
    returns: Tensor | None
    """[B, T] targets of the critic; None without a critic."""
    microbatches: list[Tensor]
    """Row indices of each micro-batch. Scoring used these very groups, which makes the first ratio exactly one."""

    def __post_init__(self) -> None:
        shape = tuple(self.rollout.response_ids.shape)
        for name in ("old_logprobs", "ref_logprobs", "values", "advantages", "returns"):
            if (value := getattr(self, name)) is not None:
                _check_shape(name, value, shape)
        for name in ("rewards", "weights"):
            _check_shape(name, getattr(self, name), shape[:1])

    @property
    def counted(self) -> Tensor:
        """[B] True where a response has tokens that count; without a reward it has none, and is in no mean."""
        return self.rollout.response_mask.any(1)

    def select(self, rows: Tensor) -> "Experience":
        """Some rows, cut like `Rollout.select`."""
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
