"""Completions behind shared prompts, read as trees: the numbers of plain rows, for fewer tokens.

The state at the end of a prompt predicts the first token of every completion behind it. All other tokens are predicted
by their parents, and the language head sees the tokens of completions alone.
"""

from typing import Any

import torch
from torch import Tensor

from prl.models.logprobs import (
    Completions,
    completion_mask,
    head_logprobs,
    hidden_states,
    placed_states,
    placed_values,
    read_completions,
)
from prl.models.policy import token_logprobs
from prl.models.prefix_sharing.packing import Packed, pack
from prl.models.prefix_sharing.tree_attention import PrefixSharing, packed_inputs


def readings_of(input_ids: Tensor, attention_mask: Tensor) -> list[list[int]]:
    """Return the ids of right-padded rows [N, S], without the padding."""
    lengths = attention_mask.sum(1).tolist()
    return [ids[:length] for ids, length in zip(input_ids.tolist(), lengths, strict=True)]


def read_shared_completions(
    model: Any,
    sharing: PrefixSharing,
    input_ids: Tensor,
    attention_mask: Tensor,
    loss_mask: Tensor,
    groups: Tensor,
    *,
    with_hidden: bool = False,
) -> Completions:
    """Read a batch of completions in one pass: as trees where that is less work, as plain rows elsewhere.

    Args:
        model: causal language model.
        sharing: decides for this model, and counts tokens.
        input_ids: [N, S] right padded, prompts first.
        attention_mask: [N, S] bool.
        loss_mask: [N, S] bool, True on the tokens of the completions.
        groups: [N] numbers from 0 on; rows of one number may share a beginning.
        with_hidden: keep the hidden states.

    Raises:
        PrefixSharingError: when the model cannot read trees, and is to.
    """
    if sharing.mode == "off":
        return read_completions(model, input_ids, attention_mask, loss_mask, with_hidden=with_hidden)
    readings = readings_of(input_ids, attention_mask)
    members: list[list[int]] = [[] for _ in range(int(groups.max()) + 1)]
    for number, group in enumerate(groups.tolist()):
        members[group].append(number)
    rows = sharing.pass_rows(model, [some for some in members if some], readings)
    plain = sum(map(len, readings))
    if rows is None:
        sharing.tokens.add(plain, plain, input_ids.numel())
        return read_completions(model, input_ids, attention_mask, loss_mask, with_hidden=with_hidden)
    packed = pack(rows, readings, pad_id=readings[0][0]).to(input_ids.device)
    sharing.tokens.add(plain, packed.num_tokens, packed.input_ids.numel())
    return read_packed_completions(model, packed, input_ids, loss_mask, with_hidden=with_hidden)


def read_packed_completions(
    model: Any,
    packed: Packed,
    input_ids: Tensor,
    loss_mask: Tensor,
    *,
    head_tokens: int | None = None,
    with_hidden: bool = False,
) -> Completions:
    """Read the completions of packed readings; the numbers equal those of `read_completions`.

    Args:
        model: causal language model.
        packed: the N readings as trees, on the device of the model.
        input_ids: [N, S] the readings, right padded.
        loss_mask: [N, S] bool, True on the tokens of the completions.
        head_tokens: as in `response_logprobs`.
        with_hidden: keep the hidden states.
    """
    counted, mask = loss_mask[:, 1:], completion_mask(loss_mask)
    before = packed.paths()[:, :-1] + packed.row[:, None] * packed.input_ids.shape[1]
    ids, parents = input_ids[:, 1:][counted], before[counted[:, : before.shape[1]]]
    inputs = packed_inputs(model, packed)
    states = hidden_states(model, inputs).flatten(0, 1)[parents]
    if model._prl_head_is_last:
        logprobs, _ = head_logprobs(model, states, ids, head_tokens=head_tokens)
    else:
        logits = model(**inputs).logits.flatten(0, 1)[parents]
        logprobs = token_logprobs(logits, ids, torch.ones_like(ids, dtype=torch.bool))
    return Completions(placed_values(logprobs, mask), mask, placed_states(states, mask) if with_hidden else None)
