"""Language head on response tokens in slices: the logits of a rollout are never all in memory.

With B responses of T tokens and a vocabulary of V, the logits of a rollout are B * T * V numbers, often more than
everything else in a step. Here the backbone runs once and leaves its hidden states, [B, T, D]; the head runs on slices
of the tokens that count, and where there is more than one slice its backward pass computes their logits again.
"""

import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from prl.distributed import global_max
from prl.models.collective import gathers_weights
from prl.models.policy import model_inputs, response_logits, token_logprobs

log = logging.getLogger(__name__)

LOGITS_AT_ONCE = 2**25
"""Most logits that are in memory together: 128 MiB in float32."""
LARGE = 300.0
"""Root mean square of the hidden state in the trial of a head: large enough that a cap of logits shows."""
CHANGES_LOGITS = re.compile(
    r"((final|output)_)?logits?_?(soft_?cap(ping)?|scal(e|ing)(_factor)?)|soft_?cap|(lm_head|output)_multiplier"
)
"""Settings of a transformers config that cap or scale logits behind the head; not those of attention or routers."""


def logits_setting(config: Any) -> str | None:
    """Return name and value of the setting by which a model changes its logits behind its head, or None."""
    for name, value in config.get_text_config().to_dict().items():
        if CHANGES_LOGITS.fullmatch(name) and not isinstance(value, bool) and value and (value != 1 or "cap" in name):
            return f"{name}: {value}"
    return None


def response_hidden(model: Any, input_ids: Tensor, attention_mask: Tensor, num_response_tokens: int) -> Tensor:
    """Compute the hidden states before each of the last tokens: [B, S] -> [B, T, D].

    The head sees one state only.
    """
    inputs = {**model_inputs(input_ids, attention_mask), "logits_to_keep": num_response_tokens + 1}
    return hidden_states(model, inputs)[:, :-1]


def hidden_states(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Compute what the language head of a model would see: [B, S] -> [B, S, D], or the last `logits_to_keep` of S.

    The whole model runs, as FSDP and adapters need it, but its head sees one state only.
    """
    caught: list[Tensor] = []
    is_known = hasattr(model, "_prl_head_is_last")

    def catch(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(arguments[0])
        state = arguments[0][:1, -1:]
        return (state if is_known else _large(state), *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        logits = model(**inputs).logits
    finally:
        hook.remove()
    hidden = caught[0]
    if not is_known:
        model._prl_head_is_last = _ends_with_head(model, hidden, logits)
    return hidden


@torch.no_grad()
def _large(state: Tensor) -> Tensor:
    """Rescale a hidden state to a large norm; its direction stays."""
    return state * (LARGE / state.float().pow(2).mean().sqrt().clamp(min=1e-6)).to(state.dtype)


@torch.no_grad()
def _ends_with_head(model: Any, hidden: Tensor, logits: Tensor) -> bool:
    """Return whether the model returns the head's output unchanged: some models cap or scale it.

    For models of transformers the config decides. Others are tried on large logits, because a cap hardly changes small
    ones.
    """
    reason = logits_setting(model.config)
    if reason is None:
        found = model.get_output_embeddings()(_large(hidden[:1, -1:]))
        if found.shape == logits.shape and torch.allclose(found.float(), logits.float(), rtol=1e-3, atol=1e-3):
            return True
    log.warning(
        "%s changes the logits after its language head (%s), so log-probabilities are computed from whole logits: "
        "B * T * V numbers at once. A smaller batch (update.microbatch_size, data.batch_size) saves memory",
        type(model).__name__,
        reason or "for a reason that its config does not name",
    )
    return False


def response_logprobs(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_ids: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    head_tokens: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Compute log-probabilities of responses, entropies (`with_entropy`) and hidden states.

    Args:
        model: causal language model.
        input_ids: [B, S] prompt and response.
        attention_mask: [B, S] bool.
        token_ids: [B, T] the response.
        mask: [B, T] bool, True on tokens that count.
        temperature: temperature of the sampling.
        with_entropy: compute the entropy as well.
        head_tokens: most tokens that the head reads at a time. It then always reads equally many, zeros where there
            are too few, so that the bits of a token do not depend on how many others count.

    Returns:
        [B, T] float32, [B, T] float32 or None, both zero outside the mask; [B, T, D].
    """
    width = token_ids.shape[1]
    hidden = response_hidden(model, input_ids, attention_mask, width)
    if not model._prl_head_is_last:
        logits = response_logits(model, input_ids, attention_mask, width)
        entropies = entropy(logits / temperature).masked_fill(~mask, 0) if with_entropy else None
        return token_logprobs(logits, token_ids, mask, temperature), entropies, hidden
    options: dict[str, Any] = {"temperature": temperature, "with_entropy": with_entropy, "head_tokens": head_tokens}
    logprobs, entropies = head_logprobs(model, hidden[mask], token_ids[mask], **options)
    return placed_values(logprobs, mask), None if entropies is None else placed_values(entropies, mask), hidden


def head_logprobs(
    model: Any,
    states: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    head_tokens: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the language head on slices of hidden states.

    Args:
        model: causal language model that returns the output of its head unchanged.
        states: [M, D] hidden states.
        ids: [M] the token behind each.
        temperature: temperature of the sampling.
        with_entropy: compute the entropy as well.
        head_tokens: as in `response_logprobs`.

    Returns:
        Log-probabilities [M] float32, and entropies [M] float32 or None.
    """
    head, count = model.get_output_embeddings(), len(ids)

    def read(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float()
        logits = logits if temperature == 1 else logits / temperature
        logprobs = logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)
        return logprobs, entropy(logits) if with_entropy else logprobs.new_zeros(0)

    size = tokens_at_once(head)
    if head_tokens is not None:
        size = min(size, head_tokens)
        missing = -len(ids) % size
        states, ids = pad(states, (0, 0, 0, missing)), pad(ids, (0, missing))
    found = in_slices(read, head, size, states, ids)
    logprobs = torch.cat([one for one, _ in found])[:count] if found else states.new_zeros(0)
    return logprobs, torch.cat([two for _, two in found])[:count] if with_entropy and found else None


def tokens_at_once(head: Any) -> int:
    """Return how many tokens a language head may read together."""
    return max(1, LOGITS_AT_ONCE // head.out_features)  # sharded weights have no shape


def in_slices(read: Callable[..., Any], head: Any, size: int, *tensors: Tensor) -> list[Any]:
    """Call a function that reads a language head on slices of `size` rows, and in the backward pass again.

    The backward pass calls it again where there is more than one slice. Where each call gathers the head's weights from
    all processes (ZeRO-3), a process with fewer slices than another reads slices of one row of zeros at the end, since
    the others would wait for it. Their results are to be cut off.
    """
    whole, rest = divmod(len(tensors[0]), size)
    sizes = [size] * whole + [rest] * (rest > 0 or not whole)
    missing = 0
    if gathers_weights(head):
        missing = int(global_max(torch.tensor(len(sizes), device=tensors[0].device))) - len(sizes)
    if missing:
        sizes += [1] * missing
        tensors = tuple(pad(each, (0, 0) * (each.dim() - 1) + (0, missing)) for each in tensors)
    again = len(sizes) > 1 and torch.is_grad_enabled()
    slices = zip(*(each.split(sizes) for each in tensors), strict=True)
    return [checkpoint(read, *one, use_reentrant=False) if again else read(*one) for one in slices]


class Completions(NamedTuple):
    """What a model says of N completions, whose tokens begin their rows; T tokens of the longest one."""

    logprobs: Tensor
    """[N, T] float32, zero behind the ends of shorter ones."""
    mask: Tensor
    """[N, T] bool, where tokens are."""
    hidden: Tensor | None = None
    """[N, T, D] hidden state before each token, zero behind the ends, where it was asked for."""


def read_completions(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    loss_mask: Tensor,
    *,
    temperature: float = 1.0,
    head_tokens: int | None = None,
    with_hidden: bool = False,
) -> Completions:
    """Read the tokens that a loss is on.

    Args:
        model: causal language model.
        input_ids: [N, S] right padded, prompts first.
        attention_mask: [N, S] bool.
        loss_mask: [N, S] bool, True on the tokens of the completions.
        temperature: as in `response_logprobs`.
        head_tokens: as there.
        with_hidden: keep the hidden states.
    """
    counted, mask = loss_mask[:, 1:], completion_mask(loss_mask)
    inputs = (input_ids, attention_mask, input_ids[:, 1:], counted)
    logprobs, _, hidden = response_logprobs(model, *inputs, temperature=temperature, head_tokens=head_tokens)
    states = placed_states(hidden[counted], mask) if with_hidden else None
    return Completions(placed_values(logprobs[counted], mask), mask, states)


def completion_logprobs(model: Any, *inputs: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and mask of `read_completions`: [N, T] each."""
    found = read_completions(model, *inputs, **options)
    return found.logprobs, found.mask


def completion_mask(loss_mask: Tensor) -> Tensor:
    """Find where the tokens that a loss is on are, once they begin their rows: [N, S] -> [N, T] bool."""
    lengths = loss_mask[:, 1:].sum(1)
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]


def placed_values(values: Tensor, mask: Tensor) -> Tensor:
    """Scatter [N] values to their tokens: [B, T], zero elsewhere."""
    return values.new_zeros(mask.shape, dtype=torch.float32).masked_scatter(mask, values.float())


def placed_states(states: Tensor, mask: Tensor) -> Tensor:
    """Scatter hidden states [M, D] to the M places of a mask [N, T]: [N, T, D], zero elsewhere."""
    return states.new_zeros(*mask.shape, states.shape[-1]).masked_scatter(mask[..., None], states)


def entropy(logits: Tensor) -> Tensor:
    """Compute the entropy in nats of each distribution: [..., V] -> [...]."""
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)
