"""Whether what a model says of a text depends on the padding beside it, or on the rest of its batch."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prl.distributed import rank
from prl.types import Conversation

log = logging.getLogger(__name__)

ROUNDING = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""Type of the weights -> the largest change, relative to the number or 1, that passes for rounding."""
_PROMPT: Conversation = [{"role": "user", "content": "What is 1 + 2?"}]
_SHORT, _LONG = "It is 3.", "Let us count: one, and then two more, which makes two, three. So the answer is 3. " * 4


@torch.no_grad()
def tell_if_layout_matters(
    read: Callable[[list[Conversation], list[str]], Tensor], model: nn.Module, name: str, dtype: str | None
) -> float | None:
    """Read a short text alone and beside a long one, and log a warning where the two readings differ.

    A model that attends to padding, or counts it in positions, gives other numbers in other batches. That happens to
    models that transformers loads without complaint, so a model that prl did not train is tried when it is read.

    Args:
        read: (N prompts, N responses) -> numbers of each: [N, ...].
        model: the model; one whose weights are in another process is not tried.
        name: the model, for the log.
        dtype: float32, bfloat16 or float16.

    Returns:
        the largest change, relative to the number or 1; None where it was not tried.
    """
    if any(weight.is_meta for weight in model.parameters()):
        return None
    alone = read([_PROMPT], [_SHORT])[0].double()
    beside = read([_PROMPT, _PROMPT], [_SHORT, _LONG])[0].double()
    change = float(((alone - beside).abs() / alone.abs().clamp(min=1)).max())
    if not change <= ROUNDING[dtype or "float32"] and rank() == 0:
        log.warning(
            "%s: what it says of a text changes by %.3g beside a longer text in the batch, more than by rounding. "
            "It reads its padding, or counts it in positions; set batch_size to 1 (max_batch_tokens of a generative "
            "judge), or use another attention implementation",
            name,
            change,
        )
    return change
