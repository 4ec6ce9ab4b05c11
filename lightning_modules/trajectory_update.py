"""The update of a policy of pictures: epochs of minibatches over the noisy steps of one iteration."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_modules.denoising_stage import DenoisingStage
from prl.config import Update
from prl.diffusion.base import GaussianStep, NoiseProcess
from prl.diffusion.denoisers.base import Condition, repeated, rows_of
from prl.diffusion.sampling import Prompted
from prl.diffusion.trajectories import StepKL, Trajectories, TrajectorySampling, read_steps
from prl.distributed import world_size
from prl.models.adapters import without_adapters
from prl.objectives.policy.base import PolicyObjective, PolicyOutputs
from prl.rl.health_monitor import HealthMonitor
from prl.rl.minibatch import count_global, schedule_minibatches
from prl.rl.minibatch_loss import token_weights
from prl.rl.step_statistics import accumulate, mean_over_steps, reduce_over_ranks
from prl.types import Experience


@dataclass(frozen=True)
class PictureRollout:
    """What the policy made in an iteration, with the prompts as its network reads them."""

    trajectories: Trajectories
    condition: Condition
    null: Condition | None
    """Empty prompts, for guidance; None without."""


class TrajectoryUpdate(DenoisingStage):
    """Policy of pictures that learns from its trajectories in manual optimisation."""

    objective: PolicyObjective
    update_settings: Update
    step_kl: StepKL
    trajectory_sampling: TrajectorySampling
    noisy_process: NoiseProcess
    health: HealthMonitor
    reference: Any

    @property
    def max_grad_norm(self) -> float | None:
        """Limit of the gradient norm."""
        return self.update_settings.max_grad_norm

    @property
    def takes_one_step(self) -> bool:
        """Whether an iteration is one optimizer step, so that the policy that sampled is the one that learns."""
        return self.update_settings.epochs == self.update_settings.minibatches == 1

    def read(self, network: Any, rollout: PictureRollout, rows: Tensor) -> tuple[GaussianStep, Tensor]:
        """Compute the noisy steps of some rows under a network: [n] log-probabilities [n, K]."""
        count = len(self.trajectory_sampling.learnt)
        condition = repeated(rows_of(rollout.condition, rows), count)
        null = None if rollout.null is None else repeated(rows_of(rollout.null, rows), count)
        predict = Prompted(self.denoiser, network, condition, null, self.trajectory_sampling.guidance)
        step, reached = read_steps(self.noisy_process, predict, rollout.trajectories, rows)
        logprobs = step.log_prob(reached, self.trajectory_sampling.reduction)
        return step, logprobs.unflatten(0, (len(rows), count))

    @torch.no_grad()
    def read_reference(self, rollout: PictureRollout, rows: Tensor) -> tuple[GaussianStep, Tensor]:
        """Compute the noisy steps of some rows under the reference."""
        if self.reference is not None:
            return self.read(self.reference, rollout, rows)
        with without_adapters(self.model):
            return self.read(self.model, rollout, rows)

    def update(self, experience: Experience, rollout: PictureRollout) -> dict[str, float]:
        """Learn from epochs of minibatches; end early when the policy has moved past `stop_kl`."""
        settings, history = self.update_settings, []
        for groups in schedule_minibatches(experience.microbatches, settings.minibatches, settings.epochs):
            if (stats := self.step(experience, rollout, groups)) is None:
                break
            history += [stats] if stats else []
            if settings.stop_kl is not None and stats.get("approx_kl", 0.0) > settings.stop_kl:
                break
        first = {"first_ratio": history[0]["ratio_mean"]} if history and "ratio_mean" in history[0] else {}
        return {**mean_over_steps(history), **first}

    def step(self, experience: Experience, rollout: PictureRollout, groups: list[Tensor]) -> dict[str, float] | None:
        """Take one optimizer step over a minibatch made of micro-batches, and return its statistics.

        Take no step when a loss or a gradient is not finite, and return None.
        """
        steps, rows_total = count_global(experience.rollout.response_mask, experience.weights, groups)
        if not float(steps):
            return {}
        totals: dict[str, Tensor] = {}
        sharding, settings = self.sharding, self.update_settings
        for rows in groups:
            sharding.begin_microbatch(last=rows is groups[-1])
            part = experience.select(rows.to(self.device))
            weights = token_weights(
                *(part.rollout.response_mask, settings.aggregation, steps, rows_total),
                part.weights,
            )
            loss, stats = self._loss(part, rollout, rows.to(self.device), weights)
            self.manual_backward(loss * world_size())  # gradients are averaged over ranks, weights are global
            accumulate(totals, stats)
        optimizer: Any = self.optimizers()
        norm = sharding.clip(self.parameters(), settings.max_grad_norm)
        found = {**reduce_over_ranks(totals), "grad_norm": float(norm)}
        if allowed := self.health.allows_step(found):
            optimizer.step()
        sharding.zero_grad(optimizer)
        return found if allowed else None

    def _loss(
        self, part: Experience, rollout: PictureRollout, rows: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the objective's loss of a micro-batch, and the KL of its steps to those of the reference."""
        step, logprobs = self.read(self.model, rollout, rows)
        kept = weights.shape[1]  # none where no picture of the micro-batch has a reward
        logprobs = logprobs[:, :kept]
        if self.takes_one_step:
            part = replace(part, old_logprobs=logprobs.detach())
        loss, stats = self.objective(PolicyOutputs(logprobs, None), part, weights)
        if self.step_kl.coef:
            reference, _ = self.read_reference(rollout, rows)
            kl = step.kl(reference, self.trajectory_sampling.reduction)
            if self.step_kl.form == "released":
                times = rollout.trajectories.times.to(kl)
                kl = kl * times.diff().abs().repeat(len(rows))
            stats = {**stats, "step_kl": (kl.unflatten(0, (len(rows), -1))[:, :kept] * weights).sum()}
            loss = loss + self.step_kl.coef * stats["step_kl"]
        return loss, {name: value.detach() for name, value in stats.items()}
