"""Memory of what PPO does with rollouts, on fake tensors: rows are of the longest length, and laid out as in a run."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_map_only

from lightning_modules.pairwise_ppo import PairwisePPOModule
from prl.models.adapters import using_adapters
from prl.models.cast_once import cast_once
from prl.models.critic import AdapterCritic, Critic, ValueHead
from prl.models.logprobs import head_logprobs, hidden_states, logits_setting
from prl.models.memory import PeakOfTensors, working_memory
from prl.models.packed_linear import layers_to_pack
from prl.models.policy import token_logprobs
from prl.models.prefix_sharing.prompt_attention import install
from prl.models.prefix_sharing.rollouts import PromptRow, PromptSharing
from prl.rollouts.decoding import keeps_every_token
from prl.rollouts.plain_decoding import base_model_of

COPIES_OF_A_DRAW = 3
"""Tensors of the size of one step's logits, in float32, that are in memory while tokens are drawn."""


class PassMemory(NamedTuple):
    """Bytes that the passes over one micro-batch need at most, beside weights and gradients."""

    scoring: int
    update: int
    apart: int
    """Of an update on one process, where policy and critic learn one after the other if they share nothing."""


class _Rows(NamedTuple):
    """A micro-batch as models read it; the row of a model that reads each response with its own prompt is None."""

    ids: Tensor
    """[B, P + T]."""
    answer: int
    """T."""
    policy: PromptRow | None
    critic: PromptRow | None

    def plain(self) -> dict[str, Any]:
        """Build the arguments of a pass over plain rows."""
        return {"input_ids": self.ids, "use_cache": False}


def _samples(module: PairwisePPOModule) -> int:
    """Return how many responses are sampled to the very same prompt: 1 where the sampler writes prompts of its own."""
    return module.sampling.per_prompt if module.sampler.max_prompt_length is None else 1


def sampled_at_once(module: PairwisePPOModule, rows: int) -> list[tuple[int, int, int]]:
    """List rows, responses to each prompt, and prompt length of what is sampled at once.

    That is the rollouts, and one row for each prompt that the sampler writes.
    """
    written = module.sampler.max_prompt_length
    rollouts = (rows, _samples(module), module.max_prompt_length)
    return [rollouts] + ([] if written is None else [(-(-rows // module.sampling.per_prompt), 1, written)])


def pass_memory(module: PairwisePPOModule, rows: int, policy: Any, critic: Any) -> PassMemory:
    """Measure scoring and update of one micro-batch on fake models; call it under `FakeTensorMode`.

    Args:
        module: the configured module.
        rows: rollouts of an iteration on one process.
        policy: causal language model.
        critic: a `Critic`, an `AdapterCritic` or a `ValueHead`; None for none.
    """
    micro = _microbatch(module, rows, policy, critic)
    policy._prl_head_is_last = logits_setting(policy.config) is None  # by the config: no numbers to try it on
    options: Any = {"temperature": module.sampling.temperature, "with_entropy": module.objective.needs_entropy}
    evaluate = partial(_evaluate, policy, critic, micro, **options)
    both = nn.ModuleList([each for each in (policy, critic) if each is not None])
    update = working_memory(both, lambda: _sum(evaluate()).backward())
    settings = module.update_settings
    if module.resources.reuse_scoring and settings.epochs * settings.minibatches == 1 and len(micro.ids) == rows:
        return PassMemory(working_memory(both, evaluate), update, update)  # its graph is kept for the update
    apart = update
    if critic is not None and not isinstance(critic, ValueHead):
        of_policy = partial(_evaluate, policy, None, micro, **options)
        apart = max(
            working_memory(both, lambda: _sum(of_policy()).backward()),
            working_memory(both, lambda: _values(policy, critic, micro).sum().backward()),
        )
    return PassMemory(working_memory(both, torch.no_grad()(evaluate)), update, apart)


def _microbatch(module: PairwisePPOModule, rows: int, policy: Any, critic: Any) -> _Rows:
    """Build the largest micro-batch, and the rows that policy and critic make of it.

    The first prompt is one token shorter than the others: prompts of one length would have a smaller mask.
    """
    samples, size = _samples(module), module.microbatch_size
    if module.objective.min_per_prompt > 1:
        size = max(1, size // module.sampling.per_prompt) * module.sampling.per_prompt
    size = min(size, rows)
    answer, sharing = module.sampling.max_new_tokens, (PromptSharing(module.packed), PromptSharing(module.packed))
    with unset_fake_temporarily() as mode:
        first = samples - 1 if size % samples else 0  # a prompt may begin in the micro-batch before
        number = (torch.arange(size) + first) // samples
        ids = number[:, None].repeat(1, module.max_prompt_length + answer)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[number == 0, 0] = bool(number[-1] == 0) or module.max_prompt_length == 1
        counted = torch.ones(size, answer, dtype=torch.bool)
        models = (policy, critic if isinstance(critic, Critic) else None)
        laid_out = [
            None if model is None else each.lay_out(model, ids, mask, counted)
            for model, each in zip(models, sharing, strict=True)
        ]
    if any(each is not None for each in laid_out):
        install()
    fake: Callable[[Tensor], Tensor] = mode.from_tensor  # type: ignore[union-attr]
    return _Rows(fake(ids), answer, *(tree_map_only(Tensor, fake, each) for each in laid_out))


def _evaluate(policy: Any, critic: Any, micro: _Rows, *, temperature: float, with_entropy: bool) -> list[Tensor]:
    """Compute what `prl.models.actor_critic.evaluate` does, where every token counts."""
    hidden = _states(policy, micro)
    found = _logprobs(policy, micro, hidden, temperature=temperature, with_entropy=with_entropy)
    if isinstance(critic, ValueHead):
        found.append(critic(hidden))
    elif critic is not None:
        found.append(_values(policy, critic, micro))
    return found


def _values(policy: Any, critic: Any, micro: _Rows) -> Tensor:
    """Compute the values of a critic that reads the rows itself."""
    if isinstance(critic, AdapterCritic):
        with using_adapters(policy, AdapterCritic.NAME):
            return critic.head(_states(policy, micro))
    if micro.critic is not None:
        return critic(micro.ids, None, micro.answer, micro.critic)
    states = critic.backbone(**micro.plain()).last_hidden_state
    return critic.head(states[:, -micro.answer - 1 : -1])


def _states(policy: Any, micro: _Rows) -> Tensor:
    """Compute the states before the tokens of the responses: [B, T, D], of a row [B * T, D]."""
    if micro.policy is not None:
        return micro.policy.states(hidden_states(policy, micro.policy.inputs(policy)))
    return hidden_states(policy, {**micro.plain(), "logits_to_keep": micro.answer + 1})[:, :-1]


def _logprobs(policy: Any, micro: _Rows, hidden: Tensor, *, temperature: float, with_entropy: bool) -> list[Tensor]:
    tokens = micro.ids[:, -micro.answer :].flatten()
    if policy._prl_head_is_last:
        states = hidden.flatten(0, -2).clone() if micro.policy is None else hidden  # as an index by the mask does
        options: Any = {"temperature": temperature, "with_entropy": with_entropy}
        return [each for each in head_logprobs(policy, states, tokens, **options) if each is not None]
    if micro.policy is None:
        logits = policy(**micro.plain(), logits_to_keep=micro.answer + 1).logits[:, :-1].flatten(0, 1)
    else:
        logits = micro.policy.states(policy(**micro.policy.inputs(policy)).logits)
    return [token_logprobs(logits, tokens, torch.ones_like(tokens, dtype=torch.bool), temperature)]


def _sum(tensors: list[Tensor]) -> Tensor:
    """Add up what a loss is made of, in an order that has the critic's backward pass first, as the loss of a run."""
    return torch.stack([each.sum() for each in tensors]).sum()


def sampling_memory(
    policy: Any, rows: int, samples: int, prompt: int, answer: int, *, whole: bool = True, on_cpu: bool = False
) -> int:
    """Measure the bytes of sampling: the cache of whole sequences, and a pass over prompts or one step's draw.

    Copies of weights that sampling makes are there throughout: those cast for mixed precision, and on a CPU those laid
    out for oneDNN.

    Args:
        policy: causal language model.
        rows: responses that are sampled together.
        samples: responses to each prompt.
        prompt: tokens of a prompt.
        answer: tokens of a response.
        whole: whether each process has whole weights; of others there are no copies.
        on_cpu: whether the run samples on a CPU.
    """
    policy.eval()  # as in sampling: in train mode gradient checkpointing keeps no cache
    inner = base_model_of(policy)
    distinct = -(-rows // samples) if keeps_every_token(inner) else rows
    cache = policy(torch.ones(1, prompt, dtype=torch.long), use_cache=True, logits_to_keep=1).past_key_values
    per_token = sum(t.numel() * t.element_size() for keys, values, *_ in cache for t in (keys, values)) // prompt
    ids = torch.ones(distinct, prompt, dtype=torch.long)
    casts = cast_once(inner) if whole else nullcontext()
    with torch.no_grad(), casts, PeakOfTensors([*policy.parameters(), *policy.buffers()]) as tracker:
        policy(ids, use_cache=True, logits_to_keep=1)
        cast = tracker.live
    policy.train()
    draw = cast + 4 * COPIES_OF_A_DRAW * rows * policy.get_input_embeddings().num_embeddings
    packed = sum(each.weight.nbytes for each in layers_to_pack(inner, rows, answer)) if whole and on_cpu else 0
    return rows * (prompt + answer) * per_token + packed + max(tracker.peak, draw)
