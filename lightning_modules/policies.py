"""The policies of a PPO run, the one that learns and those it was: who samples, and what each says of a rollout."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.strategies import (
    is_sharded,
    sampling_from,
    settle,
    settle_frozen,
    whole_copy,
    whole_state,
    write,
)
from prl.anchors.base import Weights
from prl.data.thoughts import CLOSE, opens_thoughts, without_thoughts
from prl.distributed import global_max, rank
from prl.judge.base import PairwiseJudge
from prl.models import actor_critic
from prl.models.adapters import is_adapted, own_parameters, without_adapters
from prl.models.loading import save_model
from prl.rollouts.generate import decode, generate
from prl.rollouts.server import RolloutServer
from prl.types import Conversation, PromptBatch, Rollout, Verdict

if TYPE_CHECKING:
    from lightning_modules.pairwise_ppo import PairwisePPOModule


class RunPolicies:
    """Policy, reference and critic of a `PairwisePPOModule` at work."""

    def __init__(self, module: "PairwisePPOModule") -> None:
        self.module = module
        self._served = -1

    # ---- sampling

    def rollout(self, batch: PromptBatch) -> Rollout:
        """One response of the policy to each prompt."""
        server = self.module.rollout_server
        if server is None:
            return self._sample(self.module.policy, batch)
        self._give_policy_to(server)
        pad_id = int(self.module.tokenizer.pad_token_id)
        return server.sample(batch, self.module.sampling, end_ids=self.module.end_ids, pad_id=pad_id)

    def check_server(self, server: RolloutServer) -> None:
        """Raises ValueError when a server cannot sample for this policy."""
        if is_sharded(self.module.trainer) and is_adapted(self.module.policy):
            raise ValueError(
                "rollout_server gets whole models, and adapters on weights in shards cannot be merged; use a strategy "
                "without shards of weights (DDP, ZeRO-2), or drop policy.lora"
            )
        module = self.module
        judges = [each for judge in filter(None, (module.judge, module.heldout_judge)) for each in judge.sources()]
        sources = [module.reference_source, getattr(module, "critic_source", None), *judges]
        server.check(module.policy_source.path, [getattr(source, "path", None) for source in sources])

    def _give_policy_to(self, server: RolloutServer) -> None:
        """Once after each update."""
        module = self.module
        if self._served == module.batches_done():
            return
        state = whole_state(module.policy) if is_sharded(module.trainer) else None
        if rank() == 0:
            server.update(lambda folder: save_model(module.policy, module.tokenizer, folder, state=state))
        module.trainer.strategy.barrier("the server has the policy")
        self._served = module.batches_done()

    def responses(self, rollout: Rollout) -> list[str]:
        """A rollout as text."""
        return decode(self.module.tokenizer, rollout)

    def judged(self, batch: PromptBatch, responses: list[str]) -> tuple[PromptBatch, list[str]]:
        """What judges read of responses and anchors: answers without thoughts, unless `reward.judge_thoughts`."""
        if self.module.reward.judge_thoughts:
            return batch, responses
        anchors = [tuple(map(self._anchor_answer, some)) for some in batch.anchors]
        return batch.anchored(anchors), [without_thoughts(text, opened=self._opens) for text in responses]

    def _anchor_answer(self, text: str) -> str:
        # An anchor of a file may have come without its thoughts, whatever the policy's prompts end with.
        return without_thoughts(text, opened=self._opens and CLOSE in text)

    @cached_property
    def _opens(self) -> bool:
        return opens_thoughts(self.module.tokenizer)

    def reference_responses(self, batch: PromptBatch) -> list[str]:
        """One response of the reference to each prompt, stripped like the anchors of a file."""
        with self._reference() as model:
            rollout = self._sample(model, batch)
        return [text.strip() for text in self.responses(rollout)]

    def weights(self) -> Weights:
        """A copy of what training has made of the policy so far."""
        settle(self.module.policy)
        return {name: whole_copy(parameter) for name, parameter in own_parameters(self.module.policy)}

    def responses_under(self, weights: Weights, batch: PromptBatch) -> list[str]:
        """One response to each prompt, of the policy as it was with these weights."""
        with self._replaced(weights):
            rollout = self._sample(self.module.policy, batch)
        return [text.strip() for text in self.responses(rollout)]

    def confirm(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Both orders under the held-out judge where the run has one, else under the judge.

        Raises:
            ValueError: when the reward does not come from comparisons.
        """
        module = self.module
        if not module.reward.judge_thoughts:
            a, b = ([self._anchor_answer(text) for text in texts] for texts in (a, b))
        judges = [source for source in module.judge.sources() if isinstance(source, PairwiseJudge)]
        for judge in filter(None, (module.heldout_judge, *judges)):
            with module.judging(judge):
                return judge.compare(prompts, a, b)
        raise ValueError("an AnchorBank asks a judge about each new anchor, and this run has rules only; add a judge")

    def _sample(self, model: Any, batch: PromptBatch) -> Rollout:
        module = self.module
        pad_id = int(module.tokenizer.pad_token_id)
        tokens = len(batch.prompts) * (batch.prompt_ids.shape[1] + module.sampling.max_new_tokens)
        with sampling_from(module.trainer, model, module.gather_rollouts, tokens=tokens) as in_step:
            return generate(model, batch, module.sampling, end_ids=module.end_ids, pad_id=pad_id, in_step=in_step)

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
        settle(self.module.policy)
        for name, parameter in own_parameters(self.module.policy):
            write(parameter, weights[name])

    # ---- scoring

    def score(self, rollout: Rollout, groups: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities under policy and reference, and values, group by group: [B, T] each."""
        shape, device = rollout.response_ids.shape, rollout.response_ids.device
        policy, reference, values = (torch.zeros(shape, device=device) for _ in range(3))
        parts = [(rows, rollout.select(rows)) for rows in groups]
        if is_sharded(self.module.trainer):  # every pass takes all processes; the last validation batch may be uneven
            most = int(global_max(torch.tensor(len(parts), device=device)))
            parts += parts[-1:] * (most - len(parts))
        for rows, part in parts:
            width = part.response_ids.shape[1]
            policy[rows, :width], values[rows, :width], _ = self.evaluate(part)
        with self.module.residence.of(self.module.reference, self.module.device):
            for rows, part in parts:
                reference[rows, : part.response_ids.shape[1]] = self.reference_logprobs(part)
        if self.module.reference is not None:
            settle_frozen(self.module.reference)  # it has no backward pass after which its shards would come back
        return policy, reference, values

    def evaluate(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities, values and (when it has a weight) entropy of every response token: [B, T] each.

        Scoring and updating call this with the same tensors, so unchanged weights give a ratio of exactly one.
        """
        module = self.module
        temperature, spread = module.sampling.temperature, module.ppo.entropy_coef > 0
        return actor_critic.evaluate(
            module.policy, module.critic, rollout, temperature=temperature, with_entropy=spread
        )

    def values(self, rollout: Rollout) -> Tensor:
        """[B, T] values for a step in which the policy stays as it is."""
        return actor_critic.evaluate_critic(self.module.policy, self.module.critic, rollout)

    def reference_logprobs(self, rollout: Rollout) -> Tensor:
        """[B, T] log-probabilities under the frozen start point."""
        with self._reference() as model:
            return actor_critic.evaluate_frozen(model, rollout, temperature=self.module.sampling.temperature)

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """The reference, ready to work: a model of its own, or the policy with its adapters off."""
        module = self.module
        if module.reference is None:
            with without_adapters(module.policy):
                yield module.policy
        else:
            with module.residence.of(module.reference, module.device):
                yield module.reference
