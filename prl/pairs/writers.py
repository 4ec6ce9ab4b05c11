"""Responses of several policies to the same prompts, and those that the rows bring along."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from prl.config import ModelSource
from prl.data import AnchoredPrompt, PreferencePair
from prl.data.marks import encode_content
from prl.data.rows.records import prompt_key
from prl.data.thoughts import without_thoughts
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
        brought: of each prompt, the responses that it brings along, by the name of who wrote them; None where prompts
            bring none.
    """

    def __init__(
        self, own: Answers, others: Mapping[str, Answers], brought: Sequence[Mapping[str, Sequence[str]]] | None
    ) -> None:
        self.own, self.others, self.brought = own, dict(others), brought

    @property
    def several(self) -> bool:
        """Whether responses come from more than the policy itself."""
        return bool(self.others) or self.brought is not None

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
        for place, texts_of in enumerate((self.brought or ())[start : start + number]):
            written += [Written(place, text, name) for name, texts in texts_of.items() for text in texts]
        return with_written(own, written), [SELF] * len(own) + [each.source for each in written]


def read_brought(
    records: Sequence[AnchoredPrompt], column: str, rule: CandidateRule, others: Iterable[str], *, keep_thoughts: bool
) -> list[dict[str, list[str]]]:
    """Read the responses that all prompts bring along.

    Args:
        records: the prompts.
        column: holds the responses of a prompt by the name of who wrote them.
        rule: may ask for writers by name.
        others: names of the policies that are sampled.
        keep_thoughts: keep what stands before `</think>`, as in the responses that are sampled.

    Raises:
        ValueError: for a row without them, or of another shape, or a rule that asks for a writer of no prompt.
    """
    found = [_brought(record, column) for record in records]
    named = dict.fromkeys(name for each in found for name in each)
    if unknown := [name for name in rule.sources if name not in {SELF, POOL, *others, *named}]:
        known = ", ".join([SELF, *others, *named])
        raise ValueError(
            f"{type(rule).__name__} asks for {unknown[0]!r}, whom no prompt names in its column {column!r}; the "
            f"writers are {known}"
        )
    if keep_thoughts:
        return found
    return [
        {name: [without_thoughts(text.strip()) for text in texts] for name, texts in each.items()} for each in found
    ]


def _brought(record: AnchoredPrompt, column: str) -> dict[str, list[str]]:
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


def distinct(
    rollout: Rollout, sources: Sequence[str], counts: Counter[str], seed: int, *, keep_unfinished: bool
) -> tuple[Rollout, dict[int, list[list[str]]]]:
    """Leave out empty, unfinished and repeated responses; return the rest, and by prompt who wrote each of them.

    Args:
        rollout: responses.
        sources: who wrote each of them.
        counts: gets what was read and left out.
        seed: of the order in which several writers of one text count.
        keep_unfinished: keep responses that hit the length limit.
    """
    seen: dict[tuple[int, str], list[str]] = {}
    rows = []
    groups, finished = rollout.group.tolist(), rollout.finished.tolist()
    for row, text in enumerate(text.strip() for text in rollout.texts):
        counts["responses"] += 1
        if not text:
            counts["responses that are empty"] += 1
        elif not finished[row] and not keep_unfinished:
            counts["responses that hit the length limit"] += 1
        elif (groups[row], text) in seen:
            counts["responses equal to another"] += 1
            seen[groups[row], text].append(sources[row])
        else:
            seen[groups[row], text] = [sources[row]]
            rows.append(row)
    wrote: dict[int, list[list[str]]] = {}
    for (group, text), names in seen.items():
        # Of those that wrote one text each time counts: the first of a random order is who it is put down to.
        random.Random(f"{seed} {text}").shuffle(names)
        wrote.setdefault(group, []).append(list(dict.fromkeys(names)))
    return rollout.select(torch.tensor(rows, dtype=torch.long)) if rows else rollout, wrote


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
