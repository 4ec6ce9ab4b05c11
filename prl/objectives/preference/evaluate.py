"""Losses of an objective from log-probabilities alone: how a method is checked against another library."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prl.objectives.preference.base import STATES, PreferenceBatch, PreferenceObjective, ScoredResponses

LogProbs = Sequence[Sequence[float] | Tensor]
"""Per-token log-probabilities of several responses, which need not have one length."""
ROUNDING = 1e-5
"""Largest log-probability above 0 that counts as rounding."""


def evaluate(
    objective: PreferenceObjective,
    chosen: LogProbs,
    rejected: LogProbs,
    ref_chosen: LogProbs | None = None,
    ref_rejected: LogProbs | None = None,
    *,
    target: Sequence[float] | Tensor | None = None,
    **columns: Any,
) -> Tensor:
    """Compute the loss of each pair without a model: [B].

    Lists are computed in float64; tensors keep their type, and gradients flow into them.

    Args:
        objective: the method with its settings.
        chosen: B rows of log-probabilities of the chosen responses' tokens under the policy, end token included.
        rejected: B rows of the rejected ones.
        ref_chosen: chosen responses under the reference.
        ref_rejected: rejected responses under the reference.
        target: [B] probability that chosen is better; 1 throughout when None.
        **columns: B numbers for each column that the objective declares; B rows for each further view `name`, for its
            `ref_name`, and for each view under each guide: `teacher_chosen` where a guide is called `teacher`. For a
            list that the objective declares, B lists of rows, and B lists of numbers for its columns. What an objective
            reads of states is `NAME_VIEW` of the views that it reads it of: `values_chosen`, `kl_chosen`,
            `hidden_chosen`, and for a head `degree`, `degree_chosen`; a number for each token, or a list of numbers.

    Raises:
        ValueError: when something that the objective declares is missing or something else is given, rows do not fit
            together, or a number is no log-probability or probability.
    """
    given: dict[str, Any] = {"chosen": chosen, "rejected": rejected, "ref_chosen": ref_chosen}
    given |= {"ref_rejected": ref_rejected, **columns}
    name_of = type(objective).__name__
    _check_names(objective, given, name_of)
    dtype = _dtype(given.values())
    of_pairs = (*objective.views, *objective.revisions)
    views = {view: _scored(view, given, objective, dtype) for view in of_pairs}
    pairs = len(views["chosen"])
    numbers = {name: _numbers(name, given[name], pairs, dtype) for name in objective.columns}
    for name, of_list in objective.lists.items():
        views[name], counts = _scored_lists(name, given, objective, dtype, pairs)
        numbers |= {column: _number_lists(column, given[column], name, counts, dtype) for column in of_list}
    labels = torch.ones(pairs, dtype=dtype) if target is None else _numbers("target", target, pairs, dtype)
    for name, values in {"target": labels, **{name: numbers[name] for name in objective.probabilities}}.items():
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"{name} holds {values.tolist()}; expected probabilities from 0 to 1")
    for name, count in objective.classes.items():
        if not {*numbers[name].tolist()} <= {*range(count)}:
            raise ValueError(f"{name} holds {numbers[name].tolist()}; expected whole numbers from 0 to {count - 1}")
    return objective.loss(PreferenceBatch(views, labels, numbers))


def _scored(view: str, given: Mapping[str, Any], objective: PreferenceObjective, dtype: torch.dtype) -> ScoredResponses:
    logprobs, mask = _padded(view, given[view], dtype)
    found: dict[str, Tensor] = {}
    for part in ("ref", *objective.guides, *_of_states(objective)):
        if (rows := given.get(name := f"{part}_{view}")) is not None:
            _check_lengths(view, given[view], name, rows)
            if part in _of_states(objective):
                found[part] = pad_sequence([torch.as_tensor(row, dtype=dtype) for row in rows], batch_first=True)
            else:
                found[part], _ = _padded(name, rows, dtype)
    guides, outputs, states = (
        {name: found[name] for name in some if name in found} for some in (objective.guides, objective.heads, STATES)
    )
    return ScoredResponses(logprobs, mask, found.get("ref"), guides, outputs, **states)


def _of_states(objective: PreferenceObjective) -> list[str]:
    """List what an objective reads of states."""
    return [*objective.heads, *(name for name, need in STATES.items() if getattr(objective, need))]


def _scored_lists(
    view: str, given: Mapping[str, Any], objective: PreferenceObjective, dtype: torch.dtype, pairs: int
) -> tuple[ScoredResponses, list[int]]:
    """Pad the responses of lists, and count those of each pair."""
    parts = ("ref", *objective.guides, *_of_states(objective))
    names = [name for name in (view, *(f"{part}_{view}" for part in parts)) if given.get(name) is not None]
    counts = [len(some) for some in given[view]]
    if len(counts) != pairs or not all(counts):
        raise ValueError(f"{view} has lists of {counts} responses; expected one, not empty, for each of {pairs} pairs")
    for name in names:
        if (found := [len(some) for some in given[name]]) != counts:
            raise ValueError(f"{view} has lists of {counts} responses and {name} of {found}; expected as many")
    flat = {name: [row for some in given[name] for row in some] for name in names}
    return _scored(view, flat, objective, dtype).of_lists(torch.tensor(counts)), counts


def _number_lists(name: str, values: Any, view: str, counts: list[int], dtype: torch.dtype) -> Tensor:
    if (found := [len(some) for some in values]) != counts:
        raise ValueError(f"{name} has lists of {found} numbers; expected {counts}, one for each response of {view}")
    return pad_sequence([torch.as_tensor(some, dtype=dtype) for some in values], batch_first=True)


def _check_names(objective: PreferenceObjective, given: Mapping[str, Any], name_of: str) -> None:
    """Raise ValueError unless the arguments are those that the objective declares; a reference is always accepted."""
    further = [*objective.columns, *(name for some in objective.lists.values() for name in some)]
    views = [*objective.views, *objective.revisions, *objective.lists]
    references = [f"ref_{view}" for view in views]
    guides = [f"{guide}_{view}" for guide in objective.guides for view in views]
    needed = [*views, *further, *(references if objective.needs_reference else []), *guides]
    states = {part: [f"{part}_{view}" for view in views] for part in _of_states(objective)}
    optional = [*references, *(name for some in states.values() for name in some)]
    needed += [some[0] for some in states.values() if all(given.get(name) is None for name in some)]
    if missing := [name for name in needed if given.get(name) is None]:
        kinds = {**dict.fromkeys(references, "its reference"), **dict.fromkeys(guides, "a guide that it declares")}
        kinds |= dict.fromkeys(optional[len(references) :], "of this or another view, what it reads of states")
        why = kinds.get(missing[0], "a column or view that it declares")
        raise ValueError(f"{name_of} needs {missing[0]} ({why}), which is not given")
    if unknown := [name for name in given if name not in {*needed, *optional} and given[name] is not None]:
        declared = ", ".join([*views[2:], *further, *guides]) or "none"
        raise ValueError(f"{name_of} reads no {unknown[0]!r}; further views and columns that it declares: {declared}")


def _dtype(given: Any) -> torch.dtype:
    types = {each.dtype for each in _tensors(given) if each.is_floating_point()}
    if len(types) > 1:
        raise ValueError(f"log-probabilities are of the types {sorted(map(str, types))}; give one type")
    return types.pop() if types else torch.float64


def _tensors(given: Any) -> Iterator[Tensor]:
    """Find the tensors in lists of lists."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, Iterable):
        for each in given:
            yield from _tensors(each)


def _padded(name: str, rows: LogProbs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pad rows on the right, and mask their tokens: [N, T] each."""
    tensors = [torch.as_tensor(row, dtype=dtype) for row in rows]
    if not tensors:
        raise ValueError(f"{name} holds no rows; expected at least one")
    for number, row in enumerate(tensors):
        if row.dim() != 1 or not len(row):
            raise ValueError(f"{name}[{number}] has shape {tuple(row.shape)}; expected a number for each token")
        if wrong := [n for n, value in enumerate(row.tolist()) if not -math.inf < value <= ROUNDING]:
            raise ValueError(
                f"{name}[{number}] holds {row[wrong[0]].item():g} at token {wrong[0]}; expected a "
                "log-probability, which is finite and at most 0"
            )
    lengths = torch.tensor([len(row) for row in tensors])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return pad_sequence(tensors, batch_first=True), mask


def _check_lengths(view: str, rows: LogProbs, name: str, others: LogProbs) -> None:
    if len(rows) != len(others):
        raise ValueError(f"{view} has {len(rows)} rows and {name} {len(others)}; expected as many")
    for number, (row, other) in enumerate(zip(rows, others, strict=True)):
        if len(row) != len(other):
            raise ValueError(
                f"{view}[{number}] has {len(row)} tokens and {name}[{number}] {len(other)}; both read one response"
            )


def _numbers(name: str, values: Any, pairs: int, dtype: torch.dtype) -> Tensor:
    numbers = torch.as_tensor(values, dtype=dtype)
    if tuple(numbers.shape) != (pairs,):
        raise ValueError(f"{name} has shape {tuple(numbers.shape)}; expected a number for each of {pairs} pairs")
    return numbers
