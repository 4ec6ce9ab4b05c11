"""OPPO (Beyond Reward, 2305.16217): a policy for control that learns from preferences between trajectories, offline."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules import optimizers
from lightning_modules.base import TrainingModule
from prl.config import Optimization
from prl.control import ConditionedPolicy, Environment, NetworkSettings, PreferenceData, WindowEncoder, save_policy
from prl.control.environment import normalized, returns
from prl.control.oppo import LossWeights, counts, read_pairs, step_loss
from prl.distributed import global_sum, world_size


class OPPOModule(TrainingModule):
    """An encoder of trajectories, a policy that acts as a latent says, and the best latent z*, learnt together.

    Encoder and policy learn to reconstruct actions, to keep preferred trajectories near z*, and to keep latents at norm
    1; z* learns to lie nearer to preferred trajectories. The authors take these two steps one after the other; here
    both are one step of one optimizer, in which neither loss reaches the other's parameters (docs/methods/control.md).

    Args:
        networks: sizes of the networks; state_size, action_size and max_steps are those of the data.
        weights: weights of the losses, and the margin.
        optimization: learning rate and schedule of encoder and policy.
        optimum_learning_rate: learning rate of z*, on the same schedule.
        environment: where validations measure the return of acting by z*; null measures none.
        episodes: episodes of such a measurement.
        episode_seed: seed of their first states.
    """

    record_type: ClassVar[Any] = PreferenceData

    def __init__(
        self,
        networks: NetworkSettings,
        weights: LossWeights = LossWeights(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-4, weight_decay=1e-4, beta2=0.999),  # noqa: B008
        optimum_learning_rate: float = 1e-3,
        environment: Environment | None = None,
        episodes: int = 100,
        episode_seed: int = 0,
    ) -> None:
        super().__init__()
        if optimum_learning_rate < 0 or episodes < 1:
            raise ValueError(
                f"optimum_learning_rate is {optimum_learning_rate} and episodes {episodes}; expected 0 or more, and "
                "at least 1"
            )
        _check_environment(networks, environment)
        self.networks, self.weights, self.optimization = networks, weights, optimization
        self.optimum_learning_rate = optimum_learning_rate
        self.environment, self.episodes, self.episode_seed = environment, episodes, episode_seed
        self.model: Any = None

    def build_encoder(self) -> WindowEncoder:  # type: ignore[override]
        """Build what cuts windows out of trajectories; the data module calls this."""
        return self.networks.window_encoder()

    def setup(self, stage: str) -> None:
        """Refuse weights in shards. Raises ValueError."""
        super().setup(stage)
        if self.sharding.cuts_weights:
            raise ValueError("OPPOModule does not learn with weights in shards; set trainer.strategy to auto or ddp")

    def configure_model(self) -> None:
        """Make the networks, with the statistics of the training data where there are any; safe to call twice."""
        if self.model is None:
            self.model = ConditionedPolicy(self.networks)
            data = getattr(self._trainer, "datamodule", None)
            if data is not None:  # a checkpoint that is read later has its own
                self.model.normalize_by(*map(torch.from_numpy, data.statistics()))

    def step_totals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Count pairs, and the steps of both sides, of each row."""
        return counts(batch)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the losses of encoder and policy and the loss of z*, means over the whole step."""
        rows = read_pairs(self.model, batch, self.weights.margin)
        self._log_parts("train", batch, rows)
        self.log("train/optimum_norm", self.model.optimum.detach().norm())
        totals, num_batches = self.whole_step(batch)
        # Gradients are averaged over ranks, and over the batches of a step.
        shares = world_size() * num_batches
        of_step = {name: global_sum(total.sum()) / shares for name, total in totals.items()}
        return step_loss(rows, of_step, self.weights)["loss"]

    def _log_parts(self, split: str, batch: dict[str, Tensor], rows: dict[str, Tensor], **how: Any) -> None:
        """Log the losses of a batch, and the share of its pairs whose preferred side is nearer to z*."""
        totals = {name: total.sum() for name, total in counts(batch).items()}
        alone = step_loss({name: row.detach() for name, row in rows.items()}, totals, self.weights)
        for name, value in alone.items():
            self.log(f"{split}/{name}", value, prog_bar=name == "loss", **how)
        self.log(f"{split}/preference_accuracy", (rows["distance"] < 0).float().mean(), **how)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the losses of validation pairs."""
        rows = read_pairs(self.model, batch, self.weights.margin)
        self._log_parts("val", batch, rows, batch_size=len(rows["norm"]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Act by z* in the environment, and log the mean return, also between a random policy (0) and an expert (100).

        Every process plays the same episodes.
        """
        if self.environment is None:
            return
        found = returns(self.environment, self._act, self.episodes, self.episode_seed)
        self.log("val/return", found.mean())
        self.log("val/normalized_return", normalized(self.environment, found, self.episode_seed), prog_bar=True)

    def _act(self, *past: Tensor) -> Tensor:
        dtype = self.model.optimum.dtype
        own = (each.to(self.device, dtype if each.is_floating_point() else each.dtype) for each in past)
        return self.model.act(*own).float().cpu()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log what validation logs."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log what validation logs."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, float]]:
        """Return by how much the preferred side of each validation pair is nearer to z*, in file order."""
        rows = read_pairs(self.model, batch, self.weights.margin)
        return [{"margin": -distance} for distance in rows["distance"].tolist()]

    def configure_optimizers(self) -> Any:
        """Build one AdamW, because Lightning's DeepSpeed strategy accepts one only: z* has a rate of its own."""
        networks = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        of_optimum = replace(self.optimization, learning_rate=self.optimum_learning_rate)
        groups = optimizers.parameter_group(networks, self.optimization, "networks")
        groups += optimizers.parameter_group([self.model.optimum], of_optimum, "optimum")
        optimizers.check_learns(groups)
        optimizer = optimizers.build_optimizer(groups, self.optimization, str(self.trainer.precision))
        schedule = optimizers.build_schedule(optimizer, self.optimization, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient norms of encoder and decoder, each by itself, and not that of z*, as the authors do."""
        if gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            for part in (self.model.encoder, self.model.decoder):
                torch.nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def _optimizer_settings(self) -> dict[str, float | None]:
        return {**super()._optimizer_settings(), "optimum_learning_rate": self.optimum_learning_rate}

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the sizes of the networks."""
        return {"networks": asdict(self.networks)}

    def card_kind(self, folder: Path) -> str | None:
        """Return the kind of model that a card describes."""
        return "control"

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write encoder, policy and z* for `prl.control.load_policy`. Raises ValueError for merge: false."""
        if not merge:
            raise ValueError("merge: false writes adapters alone, and OPPOModule has none; leave it out")
        save_policy(self.model, folder)


def _check_environment(networks: NetworkSettings, environment: Environment | None) -> None:
    """Refuse an environment of other sizes than the networks. Raises ValueError."""
    if environment is None:
        return
    for name, size in (
        ("state_size", environment.state_size),
        ("action_size", environment.action_size),
        ("max_steps", environment.num_steps),
    ):
        if getattr(networks, name) != size:
            raise ValueError(
                f"model.init_args.networks.{name} is {getattr(networks, name)}, but {type(environment).__name__} has "
                f"{size}; set it so, or environment to null"
            )
