"""The update of a policy: epochs of minibatches over one iteration's experience, each one optimizer step."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lightning_modules.policy_base import PolicyTrainingModule
from prl.config import CriticSettings, KLPenalty, Resources, Sampling, Update
from prl.distributed import world_size
from prl.models.critic import explained_variance
from prl.models.prefix_sharing.tree_attention import SharingMode
from prl.objectives.policy.base import PolicyObjective, PolicyOutputs
from prl.rl.critic_warmup import CriticWarmup
from prl.rl.health_monitor import HealthMonitor
from prl.rl.kl_controller import KLController
from prl.rl.minibatch import (
    count_global,
    schedule_minibatches,
    split_microbatches,
    split_prompts,
    split_side_by_side,
)
from prl.rl.minibatch_loss import minibatch_loss, token_weights
from prl.rl.step_statistics import accumulate, mean_over_steps, reduce_over_ranks
from prl.types import Experience, Rollout


class PolicyUpdate(PolicyTrainingModule):
    """Policy that learns from experience in manual optimisation."""

    sampling: Sampling
    objective: PolicyObjective
    update_settings: Update
    resources: Resources
    kl: KLController
    kl_penalty: KLPenalty
    critic_settings: CriticSettings | None
    warmup: CriticWarmup
    health: HealthMonitor

    @property
    def max_grad_norm(self) -> float | None:
        """Limit of the gradient norm over policy and critic together."""
        return self.update_settings.max_grad_norm

    @property
    def packed(self) -> SharingMode:
        """Mode of reading the responses to a prompt behind one copy of it; off where each prompt has one response."""
        return self.update_settings.packed if self.sampling.per_prompt > 1 else "off"

    def split_microbatches(self, group: Tensor) -> list[Tensor]:
        """Draw the micro-batches of an iteration, given the number of the prompt of each rollout, [B]."""
        if self.objective.min_per_prompt > 1:
            return split_prompts(group, self.microbatch_size)
        if self.packed == "off":
            return split_microbatches(len(group), self.microbatch_size)
        return split_side_by_side(group, self.microbatch_size)

    def learns_from_scoring(self, microbatches: list[Tensor]) -> bool:
        """Return whether the pass that scores an iteration's rollout is the one that its update learns from.

        That is one step over one micro-batch: its ratio is one, and old numbers are its own, detached. Where weights
        are sharded, forward passes of other models would lie between this one and its backward pass, so it is made
        again. While the critic warms up, the update is known behind scoring only.
        """
        settings = self.update_settings
        steps = settings.epochs * settings.minibatches
        is_warming_up = self.warmup.is_active(self.batches_done())
        able = self.resources.reuse_scoring and not self.sharding.cuts_weights and not is_warming_up
        return able and steps == 1 and len(microbatches) == 1

    def update(self, experience: Experience) -> dict[str, float]:
        """Learn from epochs of minibatches; end early when the policy has moved past `stop_kl`."""
        settings, history, extra = self.update_settings, [], {}
        if experience.values is not None and experience.returns is not None:
            explained = explained_variance(experience.values, experience.returns, experience.rollout.response_mask)
            extra["value/explained_var"] = float(explained)
        if self.packed != "off":
            extra["perf/saved_tokens"] = self.actors.prompt_sharing.policy.tokens.cached_token_fraction
        with self.phase("update"):
            self.warmup.observe(self.batches_done(), extra.get("value/explained_var", 0.0))
            for groups in schedule_minibatches(experience.microbatches, settings.minibatches, settings.epochs):
                if (stats := self.step(experience, groups)) is None:
                    break
                history += [stats] if stats else []
                if settings.stop_kl is not None and stats.get("approx_kl", 0.0) > settings.stop_kl:
                    break
            self.actors.forget()
            self.lr_schedulers().step()  # type: ignore[union-attr]
        first = {"first_ratio": history[0]["ratio_mean"]} if history and "ratio_mean" in history[0] else {}
        return {**mean_over_steps(history), **first, "num_steps": len(history), **extra}

    def step(self, experience: Experience, groups: list[Tensor]) -> dict[str, float] | None:
        """Take one optimizer step over a minibatch made of micro-batches, and return its statistics.

        Take no step when a loss or a gradient is not finite, and return None. Take no step when no response of the
        minibatch counts, and return {}.
        """
        tokens, rows_total = count_global(experience.rollout.response_mask, experience.weights, groups)
        if not float(tokens):
            return {}
        totals: dict[str, Tensor] = {}
        sharding, settings = self.sharding, self.update_settings
        for rows in groups:
            sharding.begin_microbatch(last=rows is groups[-1])
            part = experience.select(rows)
            weights = token_weights(part.rollout.response_mask, settings.aggregation, tokens, rows_total, part.weights)
            for policy, values in self._outputs(part.rollout):
                loss, stats = minibatch_loss(
                    *(part, policy, values, weights),
                    objective=self.objective,
                    kl=self.kl_penalty,
                    kl_coef=self.kl.coef,
                    critic=self.critic_settings,
                )
                self.manual_backward(loss * world_size())  # gradients are averaged over ranks, weights are global
                accumulate(totals, stats)
        optimizer: Any = self.optimizers()
        norm = sharding.clip(self.parameters(), settings.max_grad_norm)
        found = {**reduce_over_ranks(totals), "grad_norm": float(norm)}
        if allowed := self.health.allows_step(found):
            optimizer.step()
        sharding.zero_grad(optimizer)
        return found if allowed else None

    def _outputs(self, rollout: Rollout) -> Iterator[tuple[PolicyOutputs | None, Tensor | None]]:
        """Compute outputs of policy and critic on a micro-batch, with gradient, for one backward pass at a time.

        Policy and critic come one after the other where each may have a pass of its own, so that the activations of one
        are gone before those of the other are there; the critic alone while only it learns; else both at once.
        """
        if self.warmup.is_active(self.batches_done()):
            yield None, self.actors.values(rollout)
        elif self.actors.learn_apart:
            logprobs, _, entropy = self.actors.evaluate_policy(rollout)
            yield PolicyOutputs(logprobs, entropy), None
            yield None, self.actors.values(rollout)
        else:
            logprobs, values, entropy = self.actors.evaluate_to_learn(rollout)
            yield PolicyOutputs(logprobs, entropy), values
