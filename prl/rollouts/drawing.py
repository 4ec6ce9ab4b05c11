"""Draws of tokens by numbers from 0 to 1, one for each row and step, so that a row's tokens depend on no other row."""

import torch
from torch import Tensor

BLOCK = 256
"""Tokens of one block: a draw first chooses a block by the sums of all, then a token within it."""


def uniform_table(rows: int, steps: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw the numbers of all rows and steps at once: [rows, steps] float64 from 0 to 1, on the CPU.

    Args:
        rows: number of rows.
        steps: most tokens of a row.
        generator: draws the numbers; None is torch's own, whose state is in checkpoints.
    """
    return torch.rand(rows, steps, generator=generator, dtype=torch.float64)


def draw_tokens(logits: Tensor, temperature: float, draws: Tensor) -> Tensor:
    """Draw each row's token from softmax(logits / temperature) by the row's own number.

    Args:
        logits: [N, V] of any floating type; computed in float32 at least. What is not finite is replaced: NaN by 0,
            infinities by the largest and the smallest number.
        temperature: above 0.
        draws: [N] float64, from 0 to below 1.

    Returns:
        [N] token ids.
    """
    logits = torch.nan_to_num(logits if logits.dtype == torch.float64 else logits.float(), nan=0.0)
    weights = (logits - logits.amax(-1, keepdim=True)).div_(temperature).exp_()
    return inverse_cdf(weights, draws)


def inverse_cdf(weights: Tensor, draws: Tensor) -> Tensor:
    """Draw from distributions by numbers from 0 to 1, and never what has no probability.

    The token is the first whose cumulative weight is above `draws` times the sum. Sums of blocks are kept in float64,
    so the whole vocabulary is read once in its own type.

    Args:
        weights: [N, V] that are not negative, each row's sum above 0; they need not add up to 1.
        draws: [N] float64, from 0 to below 1.

    Returns:
        [N] places in the rows.
    """
    blocks = torch.nn.functional.pad(weights, (0, -weights.shape[1] % BLOCK)).view(len(weights), -1, BLOCK)
    ends = blocks.sum(-1).double().cumsum(-1)
    targets = _below(draws * ends[:, -1], ends[:, -1])
    chosen = (ends <= targets[:, None]).sum(-1)
    rows = torch.arange(len(weights), device=weights.device)
    within = blocks[rows, chosen].double().cumsum(-1)
    before = torch.where(chosen > 0, ends[rows, (chosen - 1).clamp(min=0)], 0.0)
    rest = _below((targets - before).clamp(min=0), within[:, -1])
    return chosen * BLOCK + (within <= rest[:, None]).sum(-1)


def _below(values: Tensor, limits: Tensor) -> Tensor:
    """Keep each value below its limit, which rounding may have reached."""
    return torch.minimum(values, torch.nextafter(limits, torch.zeros_like(limits)))
