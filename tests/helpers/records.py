"""Records with random or given contents, for tests of the pure parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prl.objectives.preference import PreferenceBatch, PreferenceObjective, ScoredResponses
from prl.objectives.reward import PairBatch, RewardObjective
from prl.types import Experience, PromptBatch, Rollout


def ragged_mask(lengths: list[int], width: int | None = None) -> Tensor:
    """Rows whose first `length` tokens count: [B, T] bool."""
    width = max(lengths) if width is None else width
    return torch.arange(width).expand(len(lengths), -1) < torch.tensor(lengths)[:, None]


def make_rollout(mask: Tensor) -> Rollout:
    rows = mask.shape[0]
    prompt_mask = torch.ones(rows, 1, dtype=torch.bool)
    batch = PromptBatch(prompt_mask.long(), prompt_mask, [()] * rows, [()] * rows)
    return Rollout(batch, mask.long(), mask, torch.ones(rows, dtype=torch.bool), [""] * rows, mask.shape[1])


def answered(batch: PromptBatch, texts: list[str]) -> Rollout:
    """Make a rollout of these texts, whose tokens nobody reads."""
    mask = torch.ones(len(texts), 1, dtype=torch.bool)
    return Rollout(batch, mask.long(), mask, mask[:, 0], texts, 1)


def make_experience(mask: Tensor, **tensors: Tensor) -> Experience:
    """Make an experience whose tensors are zero unless given."""
    fields = {
        name: torch.zeros(mask.shape) for name in ("old_logprobs", "ref_logprobs", "values", "advantages", "returns")
    }
    fields |= {"rewards": torch.zeros(mask.shape[0]), "weights": torch.ones(mask.shape[0])}
    return Experience(rollout=make_rollout(mask), microbatches=[], **{**fields, **tensors})


def preference_batch(objective: PreferenceObjective, seed: int, padding: int = 0) -> PreferenceBatch:
    """Six pairs with random log-probabilities, soft labels and all that an objective declares; NaN as padding."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def padded(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, padding), value=float("nan"))

    views = {}
    places = 3  # of a list, some of them empty
    sizes = dict.fromkeys((*objective.views, *objective.revisions), 6) | dict.fromkeys(objective.lists, 6 * places)
    for name, rows in sizes.items():
        lengths = torch.randint(0 if rows > 6 else 1, 9, (rows,), generator=generator).tolist()
        lengths[::places] = [max(length, 1) for length in lengths[::places]]
        policy, reference = (-2 * numbers(rows, max(lengths)) for _ in range(2))
        mask = ragged_mask(lengths, max(lengths) + padding)
        guides = {guide: padded(-2 * numbers(rows, max(lengths))) for guide in objective.guides}
        read = padded(reference) if objective.needs_reference else None
        states = states_of(objective, ragged_mask(lengths, max(lengths)), numbers, padding)
        views[name] = ScoredResponses(padded(policy), mask, read, guides, **states)
    target, columns = numbers(6), {name: numbers(6) for name in objective.columns}
    columns |= {name: (count * columns[name]).floor() for name, count in objective.classes.items()}
    columns |= {name: numbers(6, places) for of_list in objective.lists.values() for name in of_list}
    return PreferenceBatch(views, target, columns)


def states_of(
    objective: PreferenceObjective, mask: Tensor, numbers: Callable[..., Tensor], padding: int = 0
) -> dict[str, Any]:
    """Make what an objective reads of states, random, and NaN outside of the mask and in the padding behind it."""

    def made(*width: int) -> Tensor:
        found = numbers(*mask.shape, *width).masked_fill(~mask.view(*mask.shape, *(1 for _ in width)), float("nan"))
        return torch.nn.functional.pad(
            found, (*(0 for _ in width), *(0 for _ in width), 0, padding), value=float("nan")
        )

    found: dict[str, Any] = {"outputs": {name: made(count) for name, count in objective.heads.items()}}
    if objective.needs_hidden:
        found["hidden"] = made(4)
    needs = {"values": objective.needs_critic, "kl": objective.needs_kl}
    found |= {name: made() for name, need in needs.items() if need}
    if objective.step_separator is not None:  # of two tokens each
        places = torch.arange(mask.shape[1] + padding) // 2
        found["steps"] = places.expand(len(mask), -1).clone()
    return found


def read_pairs(target: Tensor, wl: Tensor, lw: Tensor | None = None) -> PairBatch:
    """Pairs with the margin of chosen shown first, and of rejected shown first where it is given."""
    margin = wl[None] if lw is None else torch.stack([wl, lw])
    chosen_first = torch.tensor([True, False])[: len(margin), None].expand(margin.shape)
    return PairBatch(margin, chosen_first, target)


def pair_batch(objective: RewardObjective, seed: int) -> PairBatch:
    """Six pairs, read in both orders, with soft labels and all that an objective declares."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits, ids = numbers(2, 6, 5), torch.tensor([3, 1])
    pairs = read_pairs(numbers(6).sigmoid(), *(logits[..., 3] - logits[..., 1]))
    operator = objective.operator
    heads = len(objective.head_weights) if operator is None else operator.outputs
    chosen, rejected = (numbers(6, heads) for _ in range(2))
    more = {"logits": logits, "verdict_ids": ids} if objective.needs_logits else {}
    more |= {"chosen_rewards": chosen, "rejected_rewards": rejected} if heads else {}
    more |= {"prompt_blocks": operator.blocks(numbers(6, heads), 16)} if operator is not None else {}
    if passes := objective.dropout_passes:
        more |= {name: numbers(passes, 6, 4) for name in ("chosen_states", "rejected_states")}
    more |= {"trace_nll": numbers(6).abs()} if objective.needs_traces else {}
    if objective.needs_thoughts:
        more |= {"thought_margins": numbers(4, 2, 6), "thought_logprobs": -numbers(4, 2, 6).abs()}
    columns = {name: numbers(6) for name in objective.columns}
    for number, name in enumerate(objective.optional_columns):
        columns[name] = numbers(6).index_fill(0, torch.tensor([number % 6]), float("nan"))
    return replace(pairs, columns=columns, **more)
