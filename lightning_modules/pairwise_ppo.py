"""Pairwise PPO (2504.04950), and other methods of learning from rollouts, composed in a configuration.

Pairwise PPO raises the probability that the policy's response beats an anchor under the judge.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules import optimizers
from lightning_modules.dashboards import draw_iteration, ppo_layout
from lightning_modules.policy_update import PolicyUpdate
from lightning_modules.ppo_checks import check_lengths, check_methods, check_roles, check_run, check_warmup, run_facts
from lightning_modules.step_health import health_folder
from prl.advantages.base import AdvantageEstimator
from prl.advantages.gae import GAE
from prl.anchors.base import AnchorSource
from prl.anchors.sources import DatasetAnchors
from prl.checkpoints.event_log import EventLog
from prl.checkpoints.position import is_dry_run
from prl.config import (
    CriticSettings,
    Health,
    JudgeGate,
    KLPenalty,
    ModelSource,
    Optimization,
    Resources,
    Sampling,
    Update,
    Validation,
    check_length,
)
from prl.data.encoding import PromptEncoder
from prl.data.rows.records import AnchoredPrompt
from prl.data.tokens import OnTooLong
from prl.distributed import global_sum, world_size
from prl.judge.base import PairwiseJudge
from prl.judge.gate import check_judge
from prl.models.adapters import add_adapters, is_adapted
from prl.models.critic import AdapterCritic, build_critic, check_critic
from prl.models.loading import freeze, load_causal_lm, load_tokenizer, save_model
from prl.models.offload import Offload
from prl.objectives.policy.base import PolicyObjective
from prl.objectives.policy.ppo import PPO
from prl.rewards.base import RewardSource, load_frozen
from prl.rewards.shapers.base import RewardShaper, logged, shape
from prl.rewards.shapers.missing_eos import MissingEOS
from prl.rl.actors import Actors, check_sampler
from prl.rl.critic_warmup import CriticWarmup
from prl.rl.experience import build_experience, filter_weights
from prl.rl.health_monitor import HealthMonitor
from prl.rl.judging import Judging, shard_judge
from prl.rl.kl_controller import kl_controller
from prl.rl.metrics import iteration_metrics, sequence_kl
from prl.rollouts.base import Sampler
from prl.rollouts.filters.base import RolloutFilter
from prl.rollouts.local import LocalSampler
from prl.types import Experience, PromptBatch, Rollout, Scores


class PairwisePPOModule(PolicyUpdate):
    """Reinforcement learning of a policy with reference, reward and critic; one training batch is one iteration.

    With an advantage estimator that compares the responses of a prompt, such as `prl.advantages.GroupNormalized`, there
    is no critic and the module is GRPO.

    Args:
        policy: source of the policy, usually the folder of the supervised stage.
        reward: a judge, or another `RewardSource`.
        judge_gate: limits of the judge's passport.
        anchors: source of the responses that rollouts are compared with.
        iterations: iterations (rollout and update) of the run.
        sampler: sampler of responses; the policy in this process when null.
        sampling: settings of sampling.
        filters: rollout filters, whose weights multiply; all responses count when null.
        shaping: reward shapers, applied in order; `MissingEOS` when null.
        kl: settings of the KL to the reference.
        advantage: advantage estimator; `GAE` when null.
        objective: objective of the policy; the clipped surrogate of `PPO` when null.
        update: epochs, minibatches and reduction of the update.
        optimization: learning rate and schedule; its steps are iterations.
        critic: settings of the critic, for an advantage estimator that needs one; defaults when null.
        reference: source of the reference; the policy's source when null. With adapters on the policy, the reference is
            the policy with adapters off and costs no memory.
        max_prompt_length: longest prompt, tokens.
        on_too_long: error, truncate or skip, with counts, for longer prompts.
        judge_thoughts: have judges and rules read the thoughts in front of an answer (`<think> ... </think>`) too.
            Otherwise they read the answer alone, which is empty where the thoughts do not end.
        heldout_judge: second judge of validations, which is never in the reward.
        validation: limits and patience of validations.
        health: when the run warns, and when it stops.
        resources: placement of idle models.

    Raises:
        ValueError: for settings that contradict each other.
    """

    record_type = AnchoredPrompt

    def __init__(
        self,
        policy: ModelSource,
        reward: RewardSource,
        judge_gate: JudgeGate = JudgeGate(),  # noqa: B008 - frozen
        anchors: AnchorSource | None = None,
        iterations: int = 100,
        sampler: Sampler | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        filters: list[RolloutFilter] | None = None,
        shaping: list[RewardShaper] | None = None,
        kl: KLPenalty = KLPenalty(),  # noqa: B008 - frozen
        advantage: AdvantageEstimator | None = None,
        objective: PolicyObjective | None = None,
        update: Update = Update(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-6),  # noqa: B008 - frozen
        critic: CriticSettings | None = None,
        reference: ModelSource | None = None,
        max_prompt_length: int = 512,
        on_too_long: OnTooLong = "error",
        judge_thoughts: bool = False,
        heldout_judge: PairwiseJudge | None = None,
        validation: Validation = Validation(),  # noqa: B008 - frozen
        health: Health = Health(),  # noqa: B008 - frozen
        resources: Resources = Resources(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(validation, Offload(resources.offload_frozen))
        check_roles(policy, reference, reward, heldout_judge, iterations, validation.patience)
        check_length("max_prompt_length", max_prompt_length)
        self.automatic_optimization = False
        self.policy_source, self.reference_source = policy, reference
        self.reward, self.heldout_judge, self.judge_gate = reward, heldout_judge, judge_gate
        self.anchors, self.sampler, self.filters = anchors or DatasetAnchors(), sampler or LocalSampler(), filters or []
        self.shaping = [MissingEOS()] if shaping is None else shaping
        self.advantage, self.objective = advantage or GAE(), objective or PPO()
        methods = (self.advantage, critic, self.filters, self.anchors, self.objective, sampling, self.sampler, reward)
        self.critic_settings = check_methods(*methods, shaping=self.shaping)
        self.iterations, self.on_too_long, self.judge_thoughts = iterations, on_too_long, judge_thoughts
        self.sampling, self.kl_penalty, self.update_settings = sampling, kl, update
        self.optimization, self.resources, self.max_prompt_length = optimization, resources, max_prompt_length
        self.kl, self.health, self.microbatch_size = kl_controller(kl), HealthMonitor(health), update.microbatch_size
        self.critic_source, self.warmup = policy, CriticWarmup(0)
        if self.critic_settings is not None:
            check_critic(self.critic_settings, policy)
            self.critic_source = self.critic_settings.model or policy
            self.warmup = CriticWarmup(self.critic_settings.warmup, self.critic_settings.warmup_until)
        self.policy: Any = None
        self.reference: Any = None
        self.critic: Any = None
        self.tokenizer = load_tokenizer(policy)
        self.run_state.register_methods(kl=self.kl, warmup=self.warmup, anchors=self.anchors, health=self.health.record)
        self.run_state.register_methods(reward=self.reward, shaping=self.shaping, filters=self.filters)
        self.run_state.register_methods(advantage=self.advantage, objective=self.objective, sampler=self.sampler)
        self.run_state.register_methods(heldout_judge=self.heldout_judge)

    # ---- set-up

    @property
    def critic_kind(self) -> str | None:
        """Name the kind of the critic (own, shared or adapter); None without a critic."""
        return None if self.critic_settings is None else self.critic_settings.kind

    def build_encoder(self) -> PromptEncoder:
        """Build the encoder of prompts; the data module calls this."""
        critic = self.critic_source if self.critic_kind == "own" else None
        models = {"policy": self.policy_source, "reference": self.reference_source, "critic": critic}
        check_lengths(models, self.tokenizer, self.max_prompt_length, self.sampling, self.sampler, self.reward)
        compared = self.reward.needs_anchors or any(shaper.needs_anchors for shaper in self.shaping)
        needs_anchors = self.sampler.needs_anchors or (self.anchors.reads_column and compared)
        readers = list(self.reward.leaves())
        return PromptEncoder(self.tokenizer, self.max_prompt_length, self.on_too_long, needs_anchors, readers)

    def setup(self, stage: str) -> None:
        """Hold the settings of an iteration against each other, before a model is read. Raises ValueError."""
        super().setup(stage)
        if stage == "fit":
            check_run(self.update_settings, self.objective, self.kl_penalty, self.sampling.per_prompt, self.trainer)

    def configure_model(self) -> None:
        """Load the models one by one, sharding each before the next; safe to call twice."""
        if self.actors is not None:
            return
        judges, sharding = [*filter(None, (self.reward, self.heldout_judge))], self.sharding
        for judge in judges:
            check_judge(judge, self.judge_gate, run_facts(self.policy_source, self._trainer))
        with self.loading_models():
            self.configure_export()
        for judge in judges:
            cut = self.resources.shard_judges
            with self.loading_models() if cut else nullcontext():
                load_frozen(judge, self.policy, self.policy_source.path)
            shard_judge(judge, sharding, getattr(self._trainer, "precision", None), cut=cut)
        if self.critic_settings is not None:
            with self.loading_models():
                critic = build_critic(self.critic_settings, self.policy, self.critic_source)
            self.critic = sharding.shard(critic)
        self.policy = sharding.shard(self.policy)
        if self.reference_source is not None or not is_adapted(self.policy):
            with self.loading_models():
                reference = freeze(load_causal_lm(self.reference_source or self.policy_source))
            self.reference = sharding.shard(reference)
        self._build_actors()

    def _build_actors(self) -> None:
        shared: Any = {"tokenizer": self.tokenizer, "offload": self.offload, "sharding": self.sharding}
        judged: Any = {**shared, "with_thoughts": self.judge_thoughts, "phase": self.phase}
        self.judging = Judging(self.reward, self.heldout_judge, own_anchors=not self.anchors.reads_column, **judged)
        self.actors = Actors(
            *(self.policy, self.critic, self.reference),
            sampling=self.sampling,
            judging=self.judging,
            sampler=self.sampler,
            max_prompt_length=self.max_prompt_length,
            resources=self.resources,
            with_entropy=self.objective.needs_entropy,
            packed=self.packed,
            **shared,
        )

    def configure_export(self) -> None:
        """Load the policy alone, with all its adapters in a checkpoint."""
        self.policy = load_causal_lm(self.policy_source).train()
        if self.critic_kind == "adapter":
            add_adapters(self.policy, AdapterCritic.NAME)

    def on_fit_start(self) -> None:
        """Check models and strategy against each other before the first rollout, and start the logs."""
        check_warmup(self.warmup.budget, self.trainer)
        judges = [each for judge in filter(None, (self.reward, self.heldout_judge)) for each in judge.leaves()]
        models = [model for each in judges for model in each.model_sources().values()]
        read = [getattr(each, "path", None) for each in (self.reference_source, self.critic_source, *judges, *models)]
        check_sampler(self.sampler, self.policy, self.sharding, self.policy_source.path, read)
        self.health.folder = health_folder(self.trainer)
        self.start_validations()
        if event_log := self._anchor_log:
            event_log.truncate_after(self.validation.batch)

    def configure_optimizers(self) -> Any:
        """Build one optimizer for policy and critic."""
        return optimizers.configure_actor_critic(
            *(self.policy, self.critic, self.optimization, self.trainer),
            critic_learning_rate=self._critic_learning_rate,
            iterations=self.iterations,
            critic_warmup=lambda: self.warmup.length,
        )

    # ---- one iteration

    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Tensor]:
        """Sample, give anchors, reward, shape, estimate advantages, update, log."""
        self.meter.clear()
        iteration = self.batches_done() + 1
        rollout = self.generate(batch.repeat(self.sampling.per_prompt))
        rollout = self.place_anchors(batch, rollout)
        scores = self.judge_responses(rollout)
        experience = self.build_experience(rollout, shape(scores, rollout, self.shaping))
        if not self.health.is_sound(iteration, rollout, scores, experience):
            self.log_dict(self.health.record.numbers(), rank_zero_only=True, batch_size=len(rollout))
            self.lr_schedulers().step()  # type: ignore[union-attr]  # the schedule counts iterations
            return {"responses": rollout.response_ids, "rewards": experience.rewards}
        stats = self.update(experience)
        stats |= self.anchors.update(rollout, scores, self.actors) | self.sampler.numbers() | logged(self.shaping)
        self.log_iteration(scores, rollout, experience, stats)
        if not self.warmup.is_active(self.batches_done()):  # a policy that does not move has no KL to steer
            self.kl.update(sequence_kl(experience), int(global_sum(experience.counted.sum())))
        return {"responses": rollout.response_ids, "rewards": experience.rewards}  # for the run ledger

    def place_anchors(self, batch: PromptBatch, rollout: Rollout) -> Rollout:
        """Give each response its anchors."""
        with self.phase("anchors"):
            return rollout.anchored(self.anchors.anchors_for(batch, rollout.texts, self.actors))

    @torch.no_grad()
    def build_experience(self, rollout: Rollout, scores: Scores) -> Experience:
        """Score the rollout under policy, reference and critic, and build the constants of the update.

        A response without a reward, or with weight 0, stays in its place with an empty mask, so that all ranks take the
        same steps.
        """
        with self.phase("score"):
            weights = filter_weights(rollout, scores, self.filters)
            rollout = rollout.without(scores.failed | (weights == 0))
            groups = self.split_microbatches(rollout.group)
            with_graph = self.learns_from_scoring(groups)
            old, ref, values = self.actors.score(rollout, groups, to_learn=True, with_graph=with_graph)
            return build_experience(
                *(rollout, scores, weights),
                old_logprobs=old,
                ref_logprobs=ref,
                values=values,
                microbatches=groups,
                estimator=self.advantage,
                kl=self.kl_penalty,
                kl_coef=self.kl.coef,
            )

    # ---- logging

    def log_iteration(self, scores: Scores, rollout: Rollout, experience: Experience, stats: dict[str, float]) -> None:
        """Log the numbers of an iteration, histograms, and events of anchors."""
        iteration, num_rows = self.batches_done() + 1, len(rollout) * world_size()
        run: Any = {"reward": self.reward, "kl_coef": self.kl.coef, "meter": self.meter, "iteration": iteration}
        numbers = iteration_metrics(scores, rollout, experience, stats, **run)
        numbers |= self.health.watch(numbers)
        numbers = {"reward/score_std": 0.0, "kl/k1_stderr": 0.0, **numbers}
        self.log_dict(numbers, rank_zero_only=True, batch_size=num_rows)
        reward = "reward/win_prob" if scores.verdict is not None else "reward/score"
        shown = {"win": numbers[reward], "kl": numbers["kl/k1"], "tok/s": numbers["perf/tok_s"]}
        self.log_dict(shown, prog_bar=True, logger=False, rank_zero_only=True, batch_size=num_rows)
        if event_log := self._anchor_log:
            event_log.append(iteration, self.anchors.events())
        if self.tensorboard is not None:
            draw_iteration(self.tensorboard, scores, experience, self.logged_step())

    @property
    def _anchor_log(self) -> EventLog | None:
        """Return the log of replaced anchors; None on all ranks but the first, and in a dry run."""
        kept = self.trainer.is_global_zero and not is_dry_run(self.trainer)
        return EventLog(Path(self.trainer.default_root_dir, "anchors.jsonl")) if kept else None

    # ---- life cycle

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the run after the last iteration."""
        self.trainer.should_stop |= self.batches_done() >= self.iterations

    def on_train_start(self) -> None:
        """Lay out the page of TensorBoard; end a run that is complete already."""
        super().on_train_start()
        if self.tensorboard is not None:
            has = {"has_heldout": self.judging.heldout is not None, "has_critic": self.critic_settings is not None}
            self.tensorboard.add_custom_scalars(ppo_layout(**has))
        self.trainer.should_stop |= self.batches_done() >= self.iterations
        self.end_if_over()

    def _optimizer_settings(self) -> dict[str, float | None]:
        return {**super()._optimizer_settings(), "critic_learning_rate": self._critic_learning_rate}

    @property
    def _critic_learning_rate(self) -> float | None:
        return None if self.critic_settings is None else self.critic_settings.learning_rate

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the policy as a folder for transformers."""
        save_model(self.policy, self.tokenizer, folder, merge=merge)
