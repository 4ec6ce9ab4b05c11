"""Responses of several policies to the same prompts, and those that the rows bring along."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from prl.config import ModelSource
from prl.data import AnchoredPrompt, PreferencePair
from prl.data.marks import encode_content
from prl.data.rows.records import prompt_key
from prl.evaluation.separability import same_source, separability
from prl.models.loading import load_tokenizer
from prl.pairs.base import CandidateRule
from prl.types import PromptBatch, Rollout

SELF, POOL = "self", "pool"
"""Names of the policy itself, and of all policies together."""


class Answers(Protocol):
    """What samples the responses of one policy to some prompts, as `PromptSampler` does."""

    def sample(self, start: int, number: int) -> Rollout:
        """Sample the responses to some prompts, those to one prompt in adjacent rows."""


@dataclass(frozen=True)
class Written:
    """A response of another source to a prompt of a batch."""

    place: int
    """Number of the prompt in the batch."""
    text: str
    source: str
    finished: bool = True


class Writers:
    """Gives the responses of a policy and of others to the prompts of a file.

    Args:
        own: samples the policy.
        others: samples further policies, by name.
        records: all prompts.
        column: column of the prompts that holds responses by the name of who wrote them; None for no such column.
    """

    def __init__(
        self,
        own: Answers,
        others: Mapping[str, Answers],
        records: Sequence[AnchoredPrompt],
        column: str | None,
    ) -> None:
        self.own, self.others, self.column = own, dict(others), column
        self._brought = [brought(record, column) if column is not None else {} for record in records]

    @property
    def several(self) -> bool:
        """Whether responses come from more than the policy itself."""
        return bool(self.others) or self.column is not None

    def responses(self, start: int, number: int) -> tuple[Rollout, list[str]]:
        """Return the responses to some prompts, first the policy's own, and the source of each.

        Responses of others have no token ids: their masks are empty.
        """
        own = self.own.sample(start, number)
        written = []
        for name, sampler in self.others.items():
            found = sampler.sample(start, number)
            rows = zip(found.group.tolist(), found.texts, found.finished.tolist(), strict=True)
            written += [Written(place, text, name, finished) for place, text, finished in rows]
        for place, texts_of in enumerate(self._brought[start : start + number]):
            written += [Written(place, text, name) for name, texts in texts_of.items() for text in texts]
        return with_written(own, written), [SELF] * len(own) + [each.source for each in written]


def brought(record: AnchoredPrompt, column: str) -> dict[str, list[str]]:
    """Read the responses that a prompt brings along: {name: [text, ...]}.

    Raises:
        ValueError: for a row without them, or of another shape.
    """
    found = record.extra.get(column)
    if (
        isinstance(found, dict)
        and not {SELF, POOL} & found.keys()
        and all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in found.values())
    ):
        return found
    raise ValueError(
        f"the column {column!r} of the prompt {record.prompt[-1]['content'][:60]!r} is {str(found)[:60]!r}; expected "
        f'responses by the name of who wrote them, {{"NAME": ["text", ...]}}, and no {SELF} or {POOL}'
    )


def with_written(own: Rollout, written: Sequence[Written]) -> Rollout:
    """Append responses of others to a rollout, behind the prompts of the same numbers."""
    if not written:
        return own
    first: dict[int, int] = {}
    for row, group in enumerate(own.group.tolist()):
        first.setdefault(group, row)
    rows = [first[each.place] for each in written]
    index = torch.tensor(rows, device=own.prompt_ids.device)
    batch = own.batch

    def more(values: list[Any]) -> list[Any]:
        return values + [values[row] for row in rows] if values else values

    joined = PromptBatch(
        torch.cat([batch.prompt_ids, batch.prompt_ids[index]]),
        torch.cat([batch.prompt_mask, batch.prompt_mask[index]]),
        *(more(batch.prompts), more(batch.anchors), more(batch.extras)),
        torch.cat([batch.group, batch.group[index]]),
    )
    empty = torch.zeros(len(written), own.response_ids.shape[1], device=index.device)
    finished = torch.tensor([each.finished for each in written], device=index.device)
    return replace(
        own,
        batch=joined,
        response_ids=torch.cat([own.response_ids, empty.to(own.response_ids.dtype)]),
        response_mask=torch.cat([own.response_mask, empty.bool()]),
        finished=torch.cat([own.finished, finished]),
        texts=own.texts + [each.text for each in written],
    )


def check_names(others: Mapping[str, ModelSource], rule: CandidateRule, written: str | None) -> None:
    """Refuse names of policies that mean others, and rules that ask for none. Raises ValueError."""
    if taken := sorted({SELF, POOL} & others.keys()):
        raise ValueError(
            f"others names a policy {taken[0]!r}, which means the policy itself or all; choose another name"
        )
    unknown = [] if written is not None else [name for name in rule.sources if name not in {SELF, *others}]
    if unknown:
        known = ", ".join([SELF, *others])
        raise ValueError(f"{type(rule).__name__} asks for the policy {unknown[0]!r}; the policies are {known}")


def mix_of(rows: Iterable[Mapping[str, Any]], policy: ModelSource) -> dict[str, Any]:
    """Measure whether the tokens of chosen and rejected give them away, and how many pairs have one source."""
    pairs = [record for row in rows for record in PreferencePair.parse(row)]
    tokenizer, keys = load_tokenizer(policy), [prompt_key(pair.prompt) for pair in pairs]
    told = separability(pairs, keys, lambda text: encode_content(tokenizer, text))
    return {"separability": told, "same_source": same_source(pairs)}
