"""Responses to one prompt and what a reward source says of each two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prl.rewards.base import RewardSource
from prl.shapes import check_shape
from prl.types import Conversation, Rollout


@dataclass(frozen=True)
class Candidates:
    """K different responses to one prompt, compared each with each. Raises ValueError when shapes disagree."""

    prompt: Conversation
    texts: tuple[str, ...]
    """K responses, no two of them equal."""
    margin: Tensor
    """[K, K] float64 log-odds that the row's response beats the column's, from both orders; 0 on the diagonal, NaN
    where the comparison failed."""
    agreed: Tensor
    """[K, K] bool: whether both orders name one winner."""
    values: Tensor | None = None
    """[K] float64 what the source says of each response by itself; None of a judge, which only compares."""
    sources: tuple[tuple[str, ...], ...] = ()
    """Names of the policies that wrote each response, of which the first counts; empty where one policy wrote all."""
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    """[K] float64 each, what each signal of `HERON` says of each response; empty of other sources."""
    decided_by: tuple[tuple[str, ...], ...] = ()
    """For each of K responses the K names of the signals that decided its comparisons; empty of other sources."""

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.texts))
        check_shape("margin", self.margin, shape)
        check_shape("agreed", self.agreed, shape)
        if self.values is not None:
            check_shape("values", self.values, shape[:1])
        if self.sources and len(self.sources) != len(self.texts):
            raise ValueError(f"{len(self.texts)} candidates, but sources of {len(self.sources)}")
        if len(set(self.texts)) < len(self.texts):
            raise ValueError("two candidates are equal")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def win_prob(self) -> Tensor:
        """[K, K] probability that the row's response beats the column's; 1/2 on the diagonal."""
        tail = torch.sigmoid(-self.margin.abs())  # p(a, b) + p(b, a) is 1 to the last bit
        return torch.where(self.margin > 0, 1 - tail, tail)

    @property
    def win_rate(self) -> Tensor:
        """[K] mean probability that a response beats one of the K, itself included as 1/2 (2405.00675, section 5)."""
        return self.win_prob.mean(1)

    @property
    def reward(self) -> Tensor:
        """[K] mean log-odds against the others: the reward itself, up to a constant, where it is a number of a text."""
        return self.margin.sum(1) / max(len(self) - 1, 1)

    @property
    def worth(self) -> Tensor:
        """[K] the source's own number of each response; `reward` where it only compares."""
        return self.reward if self.values is None else self.values

    @property
    def judged(self) -> bool:
        """Whether every comparison gave a margin."""
        return not bool(self.margin.isnan().any())


def compare_candidates(source: RewardSource, rollout: Rollout) -> list[Candidates]:
    """Compare the responses to each prompt of a rollout with each other, in both orders.

    A judge compares each response with those after it. Where a source gives a number to each response and needs no
    anchors, the margin of two responses is the difference of their numbers.

    Args:
        source: loaded, on the device of the rollout.
        rollout: responses, those to one prompt in adjacent rows with one number in `group`; no two of a prompt equal.

    Returns:
        The candidates of each prompt, in the order of the rollout.
    """
    groups, texts = groups_of(rollout), [text.strip() for text in rollout.texts]
    compare = _differences if not source.needs_anchors else _comparisons
    margins, agreed, values = compare(source, rollout, groups, texts)
    return [
        Candidates(rollout.batch.prompts[rows[0]], tuple(texts[row] for row in rows), margin, same, value)
        for rows, margin, same, value in zip(groups, margins, agreed, values, strict=True)
    ]


Groups = list[list[int]]
"""Rows of each prompt."""


def groups_of(rollout: Rollout) -> Groups:
    """List the rows of each prompt of a rollout, in order."""
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(rollout.group.tolist()):
        groups.setdefault(group, []).append(row)
    return list(groups.values())


Compared = tuple[list[Tensor], list[Tensor], Sequence[Tensor | None]]
"""Margins, whether orders agree, and values, of the candidates of each prompt."""


def _differences(source: RewardSource, rollout: Rollout, groups: Groups, texts: list[str]) -> Compared:
    rewards = source.score(rollout.anchored([()] * len(rollout))).rewards.double().cpu()
    of_groups = [rewards[rows] for rows in groups]
    margins = [each[:, None] - each[None, :] for each in of_groups]
    return margins, [torch.ones_like(each, dtype=torch.bool) for each in margins], of_groups


def _comparisons(source: RewardSource, rollout: Rollout, groups: Groups, texts: list[str]) -> Compared:
    place = {row: (number, at) for number, rows in enumerate(groups) for at, row in enumerate(rows)}
    later = [tuple(texts[other] for other in groups[place[row][0]][place[row][1] + 1 :]) for row in range(len(rollout))]
    scores = source.score(rollout.anchored(later))
    margins = [torch.zeros(len(rows), len(rows), dtype=torch.float64) for rows in groups]
    agreed = [torch.ones(len(rows), len(rows), dtype=torch.bool) for rows in groups]
    if scores.verdict is None or scores.response_index is None:  # every prompt has one candidate
        return margins, agreed, [None] * len(groups)
    seen = dict.fromkeys(range(len(rollout)), 0)
    verdict = zip(
        scores.response_index.tolist(),
        scores.verdict.win_logit.tolist(),
        scores.verdict.flipped.tolist(),
        strict=True,
    )
    for row, margin, flipped in verdict:
        number, first = place[row]
        seen[row] += 1
        second = first + seen[row]
        margins[number][first, second], margins[number][second, first] = margin, -margin
        agreed[number][first, second] = agreed[number][second, first] = not flipped
    return margins, agreed, [None] * len(groups)
