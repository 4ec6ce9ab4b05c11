"""Attention of responses to a prompt that they share: every token stands once in one row, without padding.

The row has all prompts, then all responses. A prompt sees itself, a response its prompt and itself. A mask over the
whole row would say so too, but then attention computes every pair of tokens of the row. So attention reads the row in
blocks: all prompts in one plain pass, all responses in another. Linear layers read the row as it is.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_utils import AttentionInterface

KEYWORD = "prompt_blocks"
"""Argument of a model's forward pass that brings `Blocks` to its attention layers."""


class Blocks(NamedTuple):
    """Where the tokens of G prompts, and of n responses behind each, stand in a row of L tokens."""

    prompts: Tensor
    """[G, P] index in the row of each prompt's tokens, in order; 0 behind their ends."""
    responses: Tensor
    """[G, n, T] index in the row of each response's tokens; 0 behind their ends. A prompt with fewer than n responses
    has empty ones at the end."""
    visible: Tensor
    """[G * n, 1, T, P + T] bool, or additive: what the tokens of a response see, of their prompt and of the response.
    The first axis is 1 where all prompts are equally long. Padding sees something too, since a softmax over nothing is
    not a number; nothing that counts sees padding."""
    places: Tensor
    """[L] index of each token of the row among those of all prompt blocks, then of all response blocks."""


def lay_out(prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> Blocks:
    """Build the blocks of a row that holds all prompts, then the responses to each.

    Args:
        prompts: tokens of each prompt, at least 1.
        responses: tokens of the responses to each prompt; 0 is allowed.
    """
    count = max(map(len, responses))
    behind = torch.tensor([[*lengths, *[0] * (count - len(lengths))] for lengths in responses])
    first = torch.tensor(prompts)
    lengths = torch.cat([first, behind.flatten()])
    starts = (lengths.cumsum(0) - lengths)[:, None]
    here, there = (torch.arange(int(each.max())) < each.flatten()[:, None] for each in (first, behind))
    indices = [
        (start + torch.arange(mask.shape[1])).masked_fill(~mask, 0)
        for start, mask in zip(starts.split([len(prompts), behind.numel()]), (here, there), strict=True)
    ]
    seen = here.repeat_interleave(count, 0) if len(set(prompts)) > 1 else here[:1]
    width = there.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril().expand(len(seen), -1, -1)
    visible = torch.cat([seen[:, None].expand(-1, width, -1), causal], dim=-1)[:, None]
    places = torch.cat([here.flatten(), there.flatten()]).nonzero()[:, 0]
    return Blocks(indices[0], indices[1].view(len(prompts), count, width), visible, places)


def additive(blocks: Blocks, dtype: torch.dtype) -> Blocks:
    """Make the mask additive.

    A mask of bools would say the same to sdpa, which makes it additive in every layer and keeps each for its backward
    pass.
    """
    mask = torch.zeros(blocks.visible.shape, dtype=dtype, device=blocks.visible.device)
    return blocks._replace(visible=mask.masked_fill(~blocks.visible, -math.inf))


def attend(attention: Callable[..., Any], module: Any, *row: Tensor, blocks: Blocks, **options: Any) -> Any:
    """Compute the attention of a row in blocks.

    Args:
        attention: a plain attention function of transformers.
        module: the attention layer.
        row: queries, keys and values, [1, H, L, D] each.
        blocks: the blocks of the row.
        options: further arguments of the function.

    Returns:
        Output [1, L, H, D], and None in place of weights.
    """
    prompts = [_blocks_of(each, blocks.prompts) for each in row]
    found = [attention(module, *prompts, None, **options)[0].flatten(0, 1)]
    count, width = blocks.responses.shape[1:]
    if width:
        query, *own = (_blocks_of(each, blocks.responses.flatten(0, 1)) for each in row)
        # Not an index: its gradient is a sum in no certain order on a GPU.
        before = (each[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1) for each in prompts[1:])
        both = [torch.cat(pair, dim=2) for pair in zip(before, own, strict=True)]
        found.append(attention(module, query, *both, blocks.visible.to(query.dtype), **options)[0].flatten(0, 1))
    return torch.cat(found).index_select(0, blocks.places)[None], None


def _blocks_of(row: Tensor, indices: Tensor) -> Tensor:
    """Take the tokens of blocks [K, W] from a row: [1, H, L, D] -> [K, H, W, D]."""
    found = row[0].index_select(1, indices.flatten())
    return found.unflatten(1, tuple(indices.shape)).transpose(0, 1)


def install() -> None:
    """Have sdpa attention read blocks where a forward pass brings them; all other passes go through unchanged."""
    plain = AttentionInterface()["sdpa"]
    if getattr(plain, KEYWORD, False):
        return

    def sdpa(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
        blocks = options.pop(KEYWORD, None)
        if blocks is None:
            return plain(module, query, key, value, attention_mask, **options)
        return attend(plain, module, query, key, value, blocks=blocks, **options)

    setattr(sdpa, KEYWORD, True)
    AttentionInterface.register("sdpa", sdpa)
