"""Policy, critic and reference: sampling, log-probabilities and values of a rollout."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prl.anchors.base import Weights
from prl.config import Resources, Sampling
from prl.distributed import gathered, global_max, rank
from prl.models import actor_critic
from prl.models.actor_critic import Sharing
from prl.models.adapters import is_adapted, own_parameters, without_adapters
from prl.models.critic import ValueHead
from prl.models.loading import save_model
from prl.models.offload import Offload
from prl.models.prefix_sharing.tree_attention import SharingMode
from prl.rl.judging import Judging
from prl.rl.sharding import Sharding
from prl.rollouts.base import Sampler
from prl.rollouts.generate import end_token_ids, generate
from prl.types import Conversation, Critique, PromptBatch, Rollout
from prl.verdict import Verdict

Outputs = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probabilities, values and entropy of every response token: [B, T] each."""


class Actors:
    """The models of a run behind one interface. The networks belong to the LightningModule, which trains them.

    Args:
        policy: causal language model in training.
        critic: a `Critic`, an `AdapterCritic` or a `ValueHead` on the policy's hidden states; None for none.
        reference: frozen causal language model; None for the policy with its adapters off.
        tokenizer: tokenizer of all three.
        sampling: length limit and temperature.
        judging: gives second opinions on new anchors, and critiques to the sampler.
        offload: keeps the reference off the device while it is idle.
        sharding: how weights are sharded over processes.
        sampler: samples the policy's responses.
        max_prompt_length: longest prompt, tokens.
        with_entropy: have `evaluate` compute the entropy as well.
        packed: whether responses to one prompt are read behind one copy of it: auto, on or off.
        resources: when sharded weights are gathered for a rollout, and whether frozen layers are read once.
    """

    def __init__(
        self,
        policy: Any,
        critic: Any,
        reference: Any,
        tokenizer: Any,
        sampling: Sampling,
        *,
        judging: Judging,
        offload: Offload,
        sharding: Sharding,
        sampler: Sampler,
        max_prompt_length: int,
        with_entropy: bool = False,
        packed: SharingMode = "off",
        resources: Resources = Resources(),  # noqa: B008 - frozen
    ) -> None:
        self.policy, self.critic, self.reference, self.tokenizer = policy, critic, reference, tokenizer
        self.sampling, self.judging, self.offload, self.sharding = sampling, judging, offload, sharding
        self.sampler, self.gather, self.with_entropy = sampler, resources.gather_rollouts, with_entropy
        self.max_prompt_length, self.prompt_sharing = max_prompt_length, Sharing.of(packed)
        self.end_ids = end_token_ids(policy, tokenizer)
        self.version = 0
        able = resources.reuse_frozen_layers and not sharding.cuts_weights
        self.frozen = actor_critic.frozen_layers_of(policy, critic) if able else []
        """Frozen layers of policy and critic, whose hidden states are kept from scoring to the end of the update."""
        self._scored: Outputs | None = None
        for source in judging.reward.leaves():
            source.attach_handle(self)

    # ---- sampling

    def sample(self, batch: PromptBatch, version: int = 0, *, training: bool = True) -> Rollout:
        """Sample one response of the policy to each prompt.

        Args:
            batch: B prompts.
            version: changes with each update; a sampler with a copy of the weights gets each version once.
            training: sample to learn from; otherwise to validate or predict.
        """
        self.version = version
        return self.sampler.sample(batch, self) if training else self.sampler.answer(batch, self)

    def generate(self, batch: PromptBatch, limits: Tensor | None = None) -> Rollout:
        """Sample one response of the policy to each prompt in this process; see `PolicyHandle`."""
        return self._sample(self.policy, batch, limits)

    def critique(self, rollout: Rollout) -> list[Critique]:
        """Ask the reward of the run what each response lacks."""
        return self.judging.critique(rollout)

    def publish(self, receive: Callable[[Callable[[Path], None]], None]) -> None:
        """Pass the full policy to `receive` on the first process; the others wait until it returns."""
        state = self.sharding.full_state_dict(self.policy)
        if rank() == 0:
            receive(lambda folder: save_model(self.policy, self.tokenizer, folder, state=state))
        gathered(None)

    def reference_responses(self, batch: PromptBatch) -> list[str]:
        """Sample one response of the reference to each prompt, stripped like the anchors of a file."""
        with self._reference() as model:
            rollout = self._sample(model, batch)
        return [text.strip() for text in rollout.texts]

    def weights(self) -> Weights:
        """Copy the policy's current trained weights."""
        self.sharding.reshard(self.policy)
        return {name: self.sharding.full_copy(parameter) for name, parameter in own_parameters(self.policy)}

    def sample_with_weights(self, weights: Weights, batch: PromptBatch) -> list[str]:
        """Sample one response to each prompt from the policy with the given weights."""
        with self._replaced(weights):
            rollout = self._sample(self.policy, batch)
        return [text.strip() for text in rollout.texts]

    def second_opinion(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Ask the judges for a second opinion on each pair."""
        return self.judging.second_opinion(prompts, a, b)

    def _sample(self, model: Any, batch: PromptBatch, limits: Tensor | None = None) -> Rollout:
        tokens = len(batch.prompts) * (batch.prompt_ids.shape[1] + self.sampling.max_new_tokens)
        with self.sharding.sampling(model, self.gather, tokens=tokens) as synced:
            settings: Any = {"end_ids": self.end_ids, "limits": limits, "synced": synced}
            return generate(model, self.tokenizer, batch, self.sampling, **settings)

    @contextmanager
    def _replaced(self, weights: Weights) -> Iterator[None]:
        own = self.weights()
        try:
            self._put(weights)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, weights: Weights) -> None:
        self.sharding.reshard(self.policy)
        for name, parameter in own_parameters(self.policy):
            self.sharding.assign_full(parameter, weights[name])

    # ---- scoring

    def score(
        self, rollout: Rollout, groups: list[Tensor], *, to_learn: bool = False, with_graph: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute log-probabilities under policy and reference, and values, group by group: [B, T] each.

        Values are None without a critic. The policy is read last, because its activations may be kept.

        Args:
            rollout: B responses.
            groups: rows of each forward pass.
            to_learn: keep the hidden states of frozen layers for an update of these rows, until `forget`.
            with_graph: keep the pass of policy and critic over a single group for `evaluate_to_learn`.
        """
        shape, device = rollout.response_ids.shape, rollout.response_ids.device
        policy, reference, values = (torch.zeros(shape, dtype=torch.float32, device=device) for _ in range(3))
        parts = [(rows, rollout.select(rows)) for rows in groups]
        if self.sharding.cuts_weights:  # every pass needs all processes; the last validation batch may be uneven
            most = int(global_max(torch.tensor(len(parts), device=device)))
            parts += parts[-1:] * (most - len(parts))
        with self.offload.on_device(self.reference, self.sharding.device):
            for rows, part in parts:
                reference[rows, : part.response_ids.shape[1]] = self.reference_logprobs(part)
        if self.reference is not None:
            self.sharding.reshard_frozen(self.reference)  # no backward pass brings its shards back
        for rows, part in parts:
            width = part.response_ids.shape[1]
            with torch.set_grad_enabled(with_graph):
                found = self.evaluate(part)
            policy[rows, :width] = found[0].detach()
            if found[1] is not None:
                values[rows, :width] = found[1].detach()
        if with_graph:
            self._scored = found
        if not to_learn:
            self.forget()
        return policy, reference, None if self.critic is None else values

    def evaluate(self, rollout: Rollout) -> Outputs:
        """Compute log-probabilities, values and (`with_entropy`) the entropy of every response token: [B, T] each.

        Scoring and update call this with the same tensors, so unchanged weights give a ratio of exactly one.
        """
        return self._evaluate(self.critic, rollout)

    def evaluate_policy(self, rollout: Rollout) -> Outputs:
        """Compute `evaluate` without the critic."""
        return self._evaluate(None, rollout)

    def _evaluate(self, critic: Any, rollout: Rollout) -> Outputs:
        options: Any = {"temperature": self.sampling.temperature, "with_entropy": self.with_entropy}
        with self._frozen_layers_once():
            return actor_critic.evaluate(self.policy, critic, rollout, sharing=self.prompt_sharing, **options)

    def evaluate_to_learn(self, rollout: Rollout) -> Outputs:
        """Compute `evaluate` with gradient; the pass that `score` kept is taken instead, once."""
        scored, self._scored = self._scored, None
        return self.evaluate(rollout) if scored is None else scored

    @property
    def learn_apart(self) -> bool:
        """Tell whether policy and critic make separate backward passes. They may where they share no trained weight."""
        shared = self.critic is None or isinstance(self.critic, ValueHead)
        return not shared and self._scored is None and self.sharding.takes_any_backward_pass

    def values(self, rollout: Rollout) -> Tensor:
        """Compute [B, T] values for a step that does not train the policy."""
        with self._frozen_layers_once():
            return actor_critic.evaluate_critic(self.policy, self.critic, rollout, self.prompt_sharing)

    def reference_logprobs(self, rollout: Rollout) -> Tensor:
        """Compute [B, T] log-probabilities under the frozen reference."""
        sharing = self.prompt_sharing.policy if self.reference is None else self.prompt_sharing.reference
        with self._reference() as model, self._frozen_layers_once():
            return actor_critic.evaluate_frozen(model, rollout, temperature=self.sampling.temperature, sharing=sharing)

    def forget(self) -> None:
        """Drop the passes and hidden states that `score` kept for an update."""
        self._scored = None
        for each in self.frozen:
            each.forget()

    @contextmanager
    def _frozen_layers_once(self) -> Iterator[None]:
        with ExitStack() as stack:
            for each in self.frozen:
                stack.enter_context(each.once())
            yield

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """Yield the reference on its device: a model of its own, or the policy with its adapters off."""
        if self.reference is None:
            with without_adapters(self.policy):
                yield self.policy
        else:
            with self.offload.on_device(self.reference, self.sharding.device):
                yield self.reference


def check_sampler(sampler: Sampler, policy: Any, sharding: Sharding, start: str | None, read: list[Any]) -> None:
    """Refuse a sampler that cannot sample for this policy.

    Args:
        sampler: the sampler.
        policy: the loaded policy.
        sharding: how its weights are sharded over processes.
        start: the policy's start folder, or a hub id.
        read: paths of the other models of the run, or None.

    Raises:
        ValueError: as `Sampler.check`, and for adapters on sharded weights where the sampler takes weights.
    """
    if sampler.takes_weights and sharding.cuts_weights and is_adapted(policy):
        raise ValueError(
            f"sampler: {type(sampler).__name__} gets whole models, and adapters on weights in shards cannot be merged; "
            "use a strategy without shards of weights (DDP, ZeRO-2), or drop policy.lora"
        )
    sampler.check(start, [each for each in read if each is not None])
