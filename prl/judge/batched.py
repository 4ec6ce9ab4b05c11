"""Margins of tokenised comparisons, read in batches of like lengths."""

from collections.abc import Iterator
from typing import Any

import torch

from prl.data.tokens import left_pad
from prl.judge.encoding import ComparisonEncoder
from prl.models.policy import verdict_logits, verdict_margins
from prl.models.prefix_sharing.packing import pack, tree_size
from prl.models.prefix_sharing.tree_attention import PrefixSharing, device_of, packed_logits


def batched_margins(
    model: Any,
    readings: list[list[int]],
    encoder: ComparisonEncoder,
    max_tokens: int,
    prefix_sharing: PrefixSharing | None = None,
) -> torch.Tensor:
    """Compute margins of tokenised readings, longest row first, which saves padding: N -> [N] float32."""
    device = device_of(model)
    prefix_sharing = prefix_sharing or PrefixSharing("off")
    pad_id = int(encoder.tokenizer.pad_token_id)
    verdict_ids = torch.tensor(encoder.verdict_ids, device=device)
    result = torch.empty(len(readings), dtype=torch.float32, device=device)
    for rows in _batches(prefix_sharing.rows(model, readings, max_tokens), readings, max_tokens):
        numbers = [i for row in rows for i in row]
        members = [readings[i] for i in numbers]
        if len(rows) == len(members):
            ids, mask = left_pad(members, pad_id)
            logits = verdict_logits(model, ids.to(device), mask.to(device))
            prefix_sharing.tokens.add(sum(map(len, members)), sum(map(len, members)), ids.numel())
        else:
            order = iter(range(len(numbers)))
            packed = pack([[next(order) for _ in row] for row in rows], members, pad_id)
            logits = packed_logits(model, packed.to(device))
            prefix_sharing.tokens.add(packed.num_plain_tokens, packed.num_tokens, packed.input_ids.numel())
        result[torch.tensor(numbers, device=device)] = verdict_margins(logits, verdict_ids)
    return result


def _batches(rows: list[list[int]], readings: list[list[int]], max_tokens: int) -> Iterator[list[list[int]]]:
    """Batch rows of like lengths; single readings, which need no tree mask, are kept apart from trees."""
    for alone in (True, False):
        sized = [(tree_size([readings[i] for i in row]), row) for row in rows if (len(row) == 1) == alone]
        sized.sort(key=lambda entry: entry[0], reverse=True)
        while sized:
            number = max(1, max_tokens // sized[0][0])
            yield [row for _, row in sized[:number]]
            sized = sized[number:]
