"""Rollouts whose responses are read behind one copy of their prompt: the numbers of plain rows, for fewer tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prl.models.logprobs import entropy, head_logprobs, hidden_states, placed_values, response_hidden
from prl.models.policy import token_logprobs
from prl.models.prefix_sharing.packing import CostModel
from prl.models.prefix_sharing.prompt_attention import KEYWORD, Blocks, additive, install, lay_out
from prl.models.prefix_sharing.tree_attention import (
    PrefixSharing,
    SharingMode,
    attention_implementation,
    attention_window,
    computed_in,
    device_of,
    logits_mismatch,
    probe_pair,
)
from prl.types import Rollout

BLOCK_OVERHEAD = 0.08
"""Extra cost of a row in blocks, as a share of its tokens: measured by benchmarks/shared_update.py."""
SHORTEST_TRIAL = 8
"""Least tokens of the reading that a model is tried on."""


class PromptRow(NamedTuple):
    """Prompts, and the responses behind each, as one row of L tokens without padding.

    A response is there up to the token before its last one that counts, since nothing is read behind that.
    """

    input_ids: Tensor
    """[1, L]."""
    position_ids: Tensor
    """[1, L] index of each token in its own prompt and response."""
    blocks: Blocks
    before: Tensor
    """[M] index in the row of the token before each one that counts, in the order of `response_mask`."""

    def inputs(self, model: Any) -> dict[str, Any]:
        """Build the arguments of one forward pass."""
        dtype = computed_in(model, self.input_ids.device)
        return {
            "input_ids": self.input_ids,
            "attention_mask": torch.zeros(1, 1, 1, 1, dtype=dtype, device=self.input_ids.device),  # has 4 axes: is kept
            "position_ids": self.position_ids,
            "use_cache": False,
            KEYWORD: additive(self.blocks, dtype),
        }

    def states(self, hidden: Tensor) -> Tensor:
        """Take the state before each token that counts: [1, L, D] -> [M, D]."""
        return hidden[0].index_select(0, self.before)

    def cost(self, model: CostModel) -> float:
        """Return the cost of the row, in tokens of a very short row."""
        (prompts, longest), (_, count, behind) = self.blocks.prompts.shape, self.blocks.responses.shape
        pairs = prompts * (longest**2 + count * behind * (longest + behind))
        return self.input_ids.shape[1] * (1 + model.overhead) + pairs / model.attention_length


def prompt_row(ids: Tensor, mask: Tensor, response_mask: Tensor) -> PromptRow | None:
    """Lay B rows out as one row; None where no two rows have the same prompt.

    Args:
        ids: [B, P + T] left-padded prompts and right-padded responses.
        mask: [B, P + T] bool, True on every token that is no padding.
        response_mask: [B, T] bool, True on tokens that count. Rows without any are left out.
    """
    device, width = ids.device, response_mask.shape[1]
    ids, mask, counted = ids.cpu(), mask.cpu(), response_mask.cpu()
    members: dict[tuple[int, ...], list[int]] = {}
    for row in counted.any(1).nonzero()[:, 0].tolist():
        members.setdefault(tuple(ids[row, :-width][mask[row, :-width]].tolist()), []).append(row)
    rows = [row for some in members.values() for row in some]
    if len(members) == len(rows) or () in members:
        return None
    read = mask[:, -width:]
    order = (read.cumsum(1) - 1).masked_fill(~counted, 0)  # of tokens that count, in their response
    kept = order.amax(1)
    responses = [ids[row, -width:][read[row]][: int(kept[row])] for row in rows]
    pieces = [*map(torch.tensor, members), *responses]
    begins = [0] * len(members) + [len(prompt) for prompt, some in members.items() for _ in some]
    sizes = torch.tensor([len(each) for each in pieces])
    first = sizes.cumsum(0) - sizes
    start, last = torch.zeros(2, len(ids), dtype=torch.long)  # of each row: its response, and the end of its prompt
    start[rows] = first[len(members) :]
    last[rows] = (first + sizes - 1)[: len(members)].repeat_interleave(torch.tensor(list(map(len, members.values()))))
    before = torch.where(order > 0, start[:, None] + order - 1, last[:, None])[counted]
    depths = [torch.arange(len(each)) + begin for each, begin in zip(pieces, begins, strict=True)]
    blocks = lay_out([*map(len, members)], [kept[some].tolist() for some in members.values()])
    return PromptRow(
        torch.cat(pieces)[None].to(device),
        torch.cat(depths)[None].to(device),
        Blocks(*(each.to(device) for each in blocks)),
        before.to(device),
    )


States = Callable[[Any, Tensor, Tensor, PromptRow | None], Tensor]
"""Computes the state before the last token of each row of ids and mask [B, S]: [B, D]; of a `PromptRow`, its states."""


def policy_states(model: Any, ids: Tensor, mask: Tensor, row: PromptRow | None) -> Tensor:
    """Compute hidden states of a causal language model, as `States`."""
    if row is None:
        return response_hidden(model, ids, mask, 1)[:, 0]
    return row.states(hidden_states(model, row.inputs(model)))


class PromptSharing(PrefixSharing):
    """Decides for one model whether responses are read behind one copy of their prompt; counts tokens.

    Args:
        mode: auto (where the estimate says that it pays), on (wherever it saves tokens) or off.
        states: computes the states of the model, for its trial.
    """

    def __init__(self, mode: SharingMode = "off", states: States = policy_states) -> None:
        super().__init__(mode, "update.packed")
        self.states = states

    def row(self, model: Any, rollout: Rollout) -> PromptRow | None:
        """Lay a rollout out as one row; None where it is to be read plainly.

        The same rollout is always read alike. The model is tried on the first rollout in any case: with sharded weights
        all processes must take part.

        Raises:
            PrefixSharingError: when the model cannot read such a row, and the mode is on.
        """
        if self.mode == "off":
            return None
        ids, mask = rollout.input_ids, rollout.attention_mask
        lengths = mask.sum(1)
        plain = int(lengths.sum())
        able = self.is_able(model, ids[0][mask[0]].tolist())
        row = self.lay_out(model, ids, mask, rollout.response_mask) if able else None
        if row is None:
            self.tokens.add(plain, plain, ids.numel())
            return None
        self.tokens.add(plain, row.input_ids.shape[1], row.input_ids.shape[1])
        return row

    def lay_out(self, model: Any, ids: Tensor, mask: Tensor, response_mask: Tensor) -> PromptRow | None:
        """Lay rows out as `prompt_row` where the mode and the model's settings have it so; the model is not tried."""
        if self.mode == "off" or attention_implementation(model) != "sdpa":
            return None
        longest = int(mask.sum(1).max())
        row = prompt_row(ids, mask, response_mask) if longest <= (attention_window(model) or longest) else None
        return row if row is not None and self._pays(model, row, ids) else None

    def _pays(self, model: Any, row: PromptRow, ids: Tensor) -> bool:
        cost = self._cost_model(model)
        if self.mode == "auto":
            cost = CostModel(cost.attention_length, BLOCK_OVERHEAD)
        return row.cost(cost) < len(ids) * cost.row(ids.shape[1])

    def why_unable(self, model: Any, reading: list[int]) -> str | None:
        """Explain why a model cannot read responses behind one prompt; None when it can."""
        if (kind := attention_implementation(model)) != "sdpa":
            return f"attn_implementation {kind} takes no blocks of our own (sdpa does)"
        install()
        reading = (reading * SHORTEST_TRIAL)[: max(len(reading), SHORTEST_TRIAL)][: attention_window(model)]

        def compute(ids: Tensor, mask: Tensor) -> Tensor:
            responses = torch.zeros_like(mask[:, len(reading) // 2 :])
            responses[:, -1] = True
            return self.states(model, ids, mask, prompt_row(ids, mask, responses)).float()

        device = device_of(model)
        return logits_mismatch(
            model,
            reading,
            lambda: compute(*_probe(reading, device)),
            "does not read responses behind one prompt",
            plain=lambda model, ids, mask: self.states(model, ids, mask, None).float(),
        )


def _probe(reading: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    ids = torch.tensor(probe_pair(reading), device=device)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def shared_logprobs(
    model: Any, rollout: Rollout, row: PromptRow, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Compute what `response_logprobs` computes of a rollout, behind shared prompts.

    Args:
        model: causal language model.
        rollout: B responses.
        row: the rollout as one row.
        temperature: temperature of the sampling.
        with_entropy: compute the entropy as well.

    Returns:
        [B, T] float32, [B, T] float32 or None, both zero outside the mask; [M, D] the state before each token that
        counts.
    """
    mask, inputs = rollout.response_mask, row.inputs(model)
    ids, states = rollout.response_ids[mask], row.states(hidden_states(model, inputs))
    if model._prl_head_is_last:
        logprobs, entropies = head_logprobs(model, states, ids, temperature=temperature, with_entropy=with_entropy)
    else:
        logits = row.states(model(**inputs).logits)
        logprobs = token_logprobs(logits, ids, torch.ones_like(ids, dtype=torch.bool), temperature)
        entropies = entropy(logits / temperature) if with_entropy else None
    return placed_values(logprobs, mask), None if entropies is None else placed_values(entropies, mask), states
