"""A diffusion or flow model as a policy that learns from rewards of its pictures: Flow-GRPO and others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_modules import optimizers
from lightning_modules.picture_validation import check_rewards
from lightning_modules.step_health import health_folder
from lightning_modules.trajectory_update import PictureRollout, TrajectoryUpdate
from prl.advantages.base import AdvantageEstimator
from prl.advantages.group import GroupNormalized
from prl.config import Health, KLPenalty, ModelSource, Optimization, Update
from prl.data.image_encoding import ImagePromptEncoder
from prl.data.rows.image_records import ImagePrompt
from prl.diffusion.denoisers import load_denoiser
from prl.diffusion.draws import normal
from prl.diffusion.rectified_flow import RectifiedFlow
from prl.diffusion.rewards import ImageReward
from prl.diffusion.rollouts import as_rollout
from prl.diffusion.sampling import ImageSampling, Prompted
from prl.diffusion.trajectories import StepKL, TrajectorySampling, sample_trajectories
from prl.models.adapters import is_adapted, own_parameters
from prl.models.loading import freeze
from prl.objectives.policy.base import PolicyObjective
from prl.objectives.policy.ppo import PPO
from prl.rewards.shapers.base import RewardShaper, logged, shape
from prl.rl.experience import build_experience
from prl.rl.health_monitor import HealthMonitor
from prl.rl.metrics import mean_over_ranks, std_over_ranks
from prl.rl.minibatch import split_microbatches, split_prompts
from prl.rl.phase_timer import PhaseTimer
from prl.types import Experience, Scores

_TAGS = {"policy_loss": "policy/loss"}


class TrajectoryPolicyModule(TrajectoryUpdate):
    """Reinforcement learning of a denoiser, whose noisy steps are its actions; one training batch is one iteration.

    With the defaults it is Flow-GRPO (2505.05470) for a flow, and DDPO with advantages of groups (2305.13301) for a
    DDPM: advantages compare the pictures of a prompt, and each step has the clipped surrogate.

    Args:
        model: folder or hub id of a pipeline of diffusers; with `lora` adapters are trained.
        reward: reward of the pictures.
        heldout_reward: second reward of validations, which is never learnt from.
        iterations: iterations (pictures and update) of the run.
        sampling: how the policy makes pictures to learn from.
        shaping: reward shapers, applied in order.
        advantage: advantage estimator without a critic; `GroupNormalized` when null.
        objective: objective of the policy; `PPO` when null.
        kl: KL of the steps to those of the reference.
        update: epochs, minibatches and reduction of the update; batch sizes count pictures, and a token is a step.
        optimization: learning rate and schedule; its steps are iterations.
        reference: pipeline of the reference; the model's when null. With adapters on the model, the reference is the
            model with adapters off and costs no memory.
        validation_sampling: how validations make pictures, without noise in the steps.
        measured: validation prompts for which a picture is made and scored.
        shown: those of them whose pictures are drawn in TensorBoard.
        prompt_tokens: tokens of the T5 text encoder of Stable Diffusion 3 and Wan (`max_sequence_length` there), 512
            for Wan, whose network reads the padding too.
        clip: frames, height and width of the clips of a model of video; null for pictures.
        health: when the run warns, and when it stops.

    Raises:
        ValueError: for settings that contradict each other.
    """

    record_type = ImagePrompt

    def __init__(
        self,
        model: ModelSource,
        reward: ImageReward,
        heldout_reward: ImageReward | None = None,
        iterations: int = 100,
        sampling: TrajectorySampling = TrajectorySampling(),  # noqa: B008 - frozen
        shaping: list[RewardShaper] | None = None,
        advantage: AdvantageEstimator | None = None,
        objective: PolicyObjective | None = None,
        kl: StepKL = StepKL(),  # noqa: B008 - frozen
        update: Update = Update(epochs=1, minibatches=1),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-5),  # noqa: B008 - frozen
        reference: ModelSource | None = None,
        validation_sampling: ImageSampling = ImageSampling(),  # noqa: B008 - frozen
        measured: int = 64,
        shown: int = 16,
        prompt_tokens: int = 256,
        clip: list[int] | None = None,
        health: Health = Health(),  # noqa: B008 - frozen
    ) -> None:
        shared = (model, optimization, validation_sampling, reward, measured, shown, prompt_tokens, heldout_reward)
        super().__init__(*shared, clip=clip)
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; expected at least 1")
        self.automatic_optimization = False
        self.reward: ImageReward = reward
        self.heldout_reward, self.iterations, self.trajectory_sampling = heldout_reward, iterations, sampling
        self.shaping, self.advantage, self.objective = shaping or [], advantage or GroupNormalized(), objective or PPO()
        self.step_kl, self.update_settings, self.reference_source = kl, update, reference
        self._check_methods()
        self.reference: Any = None
        self.health, self.meter = HealthMonitor(health), PhaseTimer()
        self.run_state.register("health", self.health.record)
        learners = {name: part.learner for name, part in reward.named_modules() if hasattr(part, "learner")}
        self.run_state.register_methods(reward=learners)
        self.run_state.register_methods(shaping=self.shaping, advantage=self.advantage, objective=self.objective)

    def _check_methods(self) -> None:
        """Hold what methods need against what pictures have. Raises ValueError."""
        per_prompt = self.trajectory_sampling.per_prompt
        if self.update_settings.packed == "on":
            raise ValueError(
                "update.packed is on, but pictures share no tokens of a prompt; leave it at auto, or set off"
            )
        for shaper in self.shaping:
            shaper.check(self.reward.component_names)
        if self.reference_source is not None and not self.needs_reference:
            raise ValueError("reference is set, but nothing reads it: neither kl.coef above 0 nor the objective")
        if self.advantage.needs_critic or self.advantage.needs_marks or self.objective.needs_entropy:
            name = type(self.objective if self.objective.needs_entropy else self.advantage).__name__
            raise ValueError(f"{name} needs a critic, marks or entropies, which pictures do not have; choose another")
        for each in (self.advantage, self.objective):
            if per_prompt < each.min_per_prompt:
                raise ValueError(
                    f"{type(each).__name__} needs at least {each.min_per_prompt} pictures of each prompt; raise "
                    f"sampling.per_prompt, which is {per_prompt}"
                )
        if self.objective.min_per_prompt > 1 and self.update_settings.microbatch_size < per_prompt:
            raise ValueError(
                f"{type(self.objective).__name__} compares the pictures of a prompt, so update.microbatch_size, which "
                f"is {self.update_settings.microbatch_size}, has to be at least sampling.per_prompt, {per_prompt}"
            )

    # ---- set-up

    def build_encoder(self) -> ImagePromptEncoder:
        """Build the encoder of prompts; the data module calls this."""
        return self.reading_prompts(ImagePromptEncoder(self.read_pipeline().image_shape))

    @property
    def needs_reference(self) -> bool:
        """Whether anything reads the reference."""
        return self.step_kl.coef > 0 or self.objective.reads_reference

    def configure_model(self) -> None:
        """Read the pipeline, and the reference where something reads it; safe to call twice."""
        if self.model is not None:
            return
        super().configure_model()
        network: Any = self.model
        self.noisy_process = self.trajectory_sampling.process_of(self.denoiser.process)
        self.denoiser.latents_of(self.trajectory_sampling.size)  # one that cannot be made is told before training
        if self.step_kl.form == "released" and not isinstance(self.noisy_process, RectifiedFlow):
            raise ValueError(
                "kl.form: released is of flows, whose steps have lengths; leave it at exact for this model"
            )
        if self.needs_reference and (self.reference_source is not None or not is_adapted(network)):
            _, found = load_denoiser(self.reference_source or self.source, self.prompt_tokens, self.clip)
            self.reference = self.shard(freeze(found))

    def configure_optimizers(self) -> Any:
        """Build AdamW; its schedule counts iterations."""
        groups = optimizers.parameter_group(
            [each for _, each in own_parameters(self.model)], self.optimization, "model"
        )
        if not self.sharding.keeps_float32_copies:
            optimizers.check_learns(groups)
        optimizer = optimizers.build_optimizer(groups, self.optimization, str(self.trainer.precision))
        schedule = optimizers.build_schedule(optimizer, self.optimization, self.iterations)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_fit_start(self) -> None:
        """Say where batches with numbers that are not finite are kept."""
        self.health.folder = health_folder(self.trainer)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase of a batch and show its name in the progress bar."""
        self.begin_phase(name)
        with self.meter.measure(name, self.device):
            yield

    # ---- one iteration

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Make pictures, reward, shape, estimate advantages, update, log."""
        self.meter.clear()
        times, device = self.trajectory_sampling.per_prompt, self.device
        prompts = [prompt for prompt in batch["prompts"] for _ in range(times)]
        group = torch.arange(len(batch["prompts"]), device=device).repeat_interleave(times)
        with self.phase("rollout"):
            made = self.make(prompts, [int(row) for row in batch["index"] for _ in range(times)])
            images = self.denoiser.to_images(made.trajectories.latents)
        with self.phase("judge"), torch.no_grad():
            scores = self.reward.scores(images, prompts, group)
            check_rewards(self.reward, scores.rewards, len(prompts))
        rollout = as_rollout(prompts, group, len(self.trajectory_sampling.learnt))
        shaped = shape(scores, rollout, self.shaping)
        with self.phase("score"):
            experience = self.build_experience(rollout.without(shaped.failed), shaped, made)
        stats: dict[str, float] = {}
        if self.health.is_sound(self.batches_done() + 1, rollout, scores, experience):
            with self.phase("update"):
                stats = self.update(experience, made)
        self.lr_schedulers().step()  # type: ignore[union-attr]  # the schedule counts iterations
        learnt = self.reward.learn(images, prompts, scores.rewards)
        self.log_iteration(scores, experience, {**stats, **learnt})
        return {"responses": made.trajectories.latents, "rewards": experience.rewards}  # for the run ledger

    @torch.no_grad()
    def make(self, prompts: list[str], rows: list[int]) -> PictureRollout:
        """Sample a trajectory for each prompt.

        Args:
            prompts: N texts; those of a prompt stand together.
            rows: N numbers of the prompts in the data, which name the draws.
        """
        settings = self.trajectory_sampling
        condition = self.conditions(prompts)
        null = None if settings.guidance == 1 else self.conditions([""] * len(prompts))
        predict = Prompted(self.denoiser, self.model, condition, null, settings.guidance)
        shape_of, iteration = self.denoiser.latents_of(settings.size), self.batches_done()
        keys = [(self.noise_seed, iteration, row) for row in rows]
        own = [(*key, number % settings.per_prompt) for number, key in enumerate(keys)]
        start = normal([("start", *key) for key in (keys if settings.share_start else own)], shape_of, self.device)
        noise = normal([("steps", *key) for key in own], (len(settings.learnt), *shape_of), self.device)
        return PictureRollout(sample_trajectories(self.noisy_process, predict, start, noise, settings), condition, null)

    @torch.no_grad()
    def build_experience(self, rollout: Any, scores: Scores, made: PictureRollout) -> Experience:
        """Score the noisy steps under policy and reference, and build the constants of the update.

        Scoring reads the micro-batches of the update, which makes the first ratio exactly one. Where an iteration is
        one step, the update itself knows the policy that sampled.
        """
        per_prompt, size = self.objective.min_per_prompt > 1, self.update_settings.microbatch_size
        groups = split_prompts(rollout.group, size) if per_prompt else split_microbatches(len(rollout), size)
        old = torch.zeros(rollout.response_mask.shape, device=self.device)
        reference = old.clone()
        for rows in (each.to(self.device) for each in groups):
            if not self.takes_one_step:
                old[rows] = self.read(self.model, made, rows)[1].float()
            if self.objective.reads_reference:
                reference[rows] = self.read_reference(made, rows)[1].float()
        return build_experience(
            *(rollout, scores, torch.ones(len(rollout), device=self.device)),
            old_logprobs=old,
            ref_logprobs=reference if self.objective.reads_reference else old,
            values=None,
            microbatches=groups,
            estimator=self.advantage,
            kl=KLPenalty(coef=0.0),
            kl_coef=0.0,
        )

    def log_iteration(self, scores: Scores, experience: Experience, stats: dict[str, float]) -> None:
        """Log rewards, statistics of the update and seconds of the phases."""
        numbers = {
            "reward/score": mean_over_ranks(scores.rewards[~scores.failed]),
            "reward/score_std": std_over_ranks(scores.rewards[~scores.failed]),
            "reward/failed_frac": mean_over_ranks(scores.lost),
            "policy/advantage_abs": mean_over_ranks(experience.advantages.abs()),
            **{f"reward/{name}": mean_over_ranks(part[~part.isnan()]) for name, part in scores.components.items()},
            **{_TAGS.get(name, name if "/" in name else f"policy/{name}"): value for name, value in stats.items()},
            **{f"time/{name}_s": seconds for name, seconds in self.meter.seconds.items()},
            **logged(self.shaping),
        }
        self.log_dict(self.health.watch(numbers), rank_zero_only=True)
        self.log_dict(numbers, rank_zero_only=True)
        self.log("reward", numbers["reward/score"], prog_bar=True, logger=False, rank_zero_only=True)

    def on_train_start(self) -> None:
        """Go on with the schedule, and end at once where no iteration is left."""
        super().on_train_start()
        self.trainer.should_stop |= self.batches_done() >= self.iterations

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the run after its last iteration."""
        self.trainer.should_stop |= self.batches_done() >= self.iterations

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Make pictures of validation prompts."""
        self.validate_pictures(batch)
