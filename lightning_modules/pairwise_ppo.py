"""Pairwise PPO (DESIGN 1.2): raise the probability that the policy's response beats an anchor under the judge."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules import optimizers
from lightning_modules.policy_base import PolicyTrainingModule
from lightning_modules.ppo_checks import check_lengths, check_roles, check_run
from lightning_modules.ppo_dashboard import LAYOUT, draw_iteration
from lightning_modules.step_health import health_folder
from prl.anchors.base import AnchorSource
from prl.anchors.sources import DatasetAnchors
from prl.checkpoints.event_log import EventLog
from prl.checkpoints.position import is_dry_run
from prl.config import PPO, Health, JudgeGate, ModelSource, Optimization, Reward, Sampling, Validation
from prl.data.encoding import PromptEncoder
from prl.data.rows.records import AnchoredPrompt
from prl.data.tokens import OnTooLong
from prl.distributed import global_sum, world_size
from prl.judge.base import PairwiseJudge
from prl.judge.gate import check_judge
from prl.models.adapters import add_adapters, is_adapted
from prl.models.critic import AdapterCritic, CriticKind, build_critic, check_critic, explained_variance
from prl.models.loading import freeze, load_causal_lm, load_tokenizer, save_model
from prl.models.offload import Offload
from prl.objectives.policy.ppo import ppo_objective, token_weights
from prl.rewards.base import RewardSource, load_frozen
from prl.rl.actors import Actors, check_server
from prl.rl.critic_warmup import CriticWarmup
from prl.rl.experience import assemble
from prl.rl.health_monitor import HealthMonitor
from prl.rl.judging import Judging, shard_judge
from prl.rl.kl_controller import kl_controller
from prl.rl.metrics import iteration_metrics, sequence_kl
from prl.rl.minibatch import count_global, schedule_minibatches, split_microbatches
from prl.rl.sharding import Gather
from prl.rl.step_statistics import accumulate, mean_over_steps, reduce_over_ranks
from prl.rollouts.server import RolloutServer
from prl.types import Experience, PromptBatch, Rollout, Scores


class PairwisePPOModule(PolicyTrainingModule):
    """Policy, frozen reference, critic and judge, wired together; one training batch is one PPO iteration.

    Args:
        policy: where the policy starts, usually the supervised stage's folder.
        judge: the reward: a `PairwiseJudge`, or another `RewardSource`.
        judge_gate: what the judge's passport must show.
        anchors: what rollouts are compared with.
        iterations: rollout-and-update rounds until the run ends.
        sampling: how responses are sampled.
        reward: how verdicts become token rewards.
        ppo: the update.
        optimization: learning rate and schedule; its steps are iterations.
        critic: own (a backbone of its own), shared (a value head on the policy's hidden states) or adapter (adapters of
            its own on the policy's trunk, with policy.lora).
        critic_model: where an own critic starts; the policy's source when null.
        critic_learning_rate: the policy's when null.
        reference: what the policy is kept near; the policy's source when null. With adapters on the policy, the
            reference is the policy with adapters off and costs no memory.
        max_prompt_length: longest prompt, tokens.
        on_too_long: what happens to longer prompts: error, truncate or skip, with counts.
        offload_frozen: judge, held-out judge and reference wait in the memory of the CPU while they have nothing to do.
        heldout_judge: judges validations beside the judge and is never in the reward.
        validation: how validations are read.
        health: when the run warns, and when it stops.
        rollout_server: who samples the responses, instead of the policy in this process.
        gather_rollouts: put weights in shards together once per rollout: where they fit (auto), always, or never.
            Otherwise they are gathered in every pass, and all processes sample until the last response has ended.
        shard_judges: judges in shards too, under a strategy that cuts weights, instead of whole on each process.

    Raises:
        ValueError: for settings that contradict each other.
    """

    record_type = AnchoredPrompt

    def __init__(
        self,
        policy: ModelSource,
        judge: RewardSource,
        judge_gate: JudgeGate = JudgeGate(),  # noqa: B008 - frozen
        anchors: AnchorSource | None = None,
        iterations: int = 100,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        reward: Reward = Reward(),  # noqa: B008 - frozen
        ppo: PPO = PPO(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-6),  # noqa: B008 - frozen
        critic: CriticKind = "own",
        critic_model: ModelSource | None = None,
        critic_learning_rate: float | None = None,
        reference: ModelSource | None = None,
        max_prompt_length: int = 512,
        on_too_long: OnTooLong = "error",
        offload_frozen: bool = False,
        heldout_judge: PairwiseJudge | None = None,
        validation: Validation = Validation(),  # noqa: B008 - frozen
        health: Health = Health(),  # noqa: B008 - frozen
        rollout_server: RolloutServer | None = None,
        shard_judges: bool = False,
        gather_rollouts: Gather = "auto",
    ) -> None:
        super().__init__(validation, Offload(offload_frozen))
        check_critic(critic, policy, critic_model)
        check_roles(policy, reference, judge, heldout_judge, iterations)
        self.automatic_optimization = False
        self.policy_source, self.reference_source = policy, reference
        self.critic_kind, self.critic_source = critic, critic_model or policy
        self.judge, self.judge_gate, self.iterations, self.on_too_long = judge, judge_gate, iterations, on_too_long
        self.sampling, self.reward, self.ppo, self.optimization = sampling, reward, ppo, optimization
        self.rollout_server, self.shard_judges, self.gather_rollouts = rollout_server, shard_judges, gather_rollouts
        self.anchors = anchors or DatasetAnchors()
        self.anchors.check(sampling)
        self.max_prompt_length, self.critic_learning_rate = max_prompt_length, critic_learning_rate
        self.kl = kl_controller(reward.kl_coef, reward.kl_target, reward.kl_horizon)
        self.warmup = CriticWarmup(ppo.critic_warmup, ppo.critic_warmup_until)
        self.policy: Any = None
        self.reference: Any = None
        self.critic: Any = None
        self.tokenizer = load_tokenizer(policy)
        self.heldout_judge = heldout_judge
        self.health = HealthMonitor(health)
        self.microbatch_size = ppo.microbatch_size
        for name in ("kl", "warmup", "anchors"):
            self.run_state.register(name, getattr(self, name))
        self.run_state.register("health", self.health.record)

    # ---- set-up

    def build_encoder(self) -> PromptEncoder:
        """How this stage reads a prompt; the data module asks for it."""
        critic = self.critic_source if self.critic_kind == "own" else None
        models = {"policy": self.policy_source, "reference": self.reference_source, "critic": critic}
        check_lengths(models, self.tokenizer, self.max_prompt_length + self.sampling.max_new_tokens)
        needs_anchors = self.anchors.reads_column and self.judge.needs_anchors
        return PromptEncoder(self.tokenizer, self.max_prompt_length, self.on_too_long, needs_anchors)

    def configure_model(self) -> None:
        """Read the models one after the other, each in shards before the next; safe to call twice."""
        if self.critic is not None:
            return
        judges, sharding = [*filter(None, (self.judge, self.heldout_judge))], self.sharding
        for judge in judges:
            check_judge(judge, self.judge_gate)
        with self.loading_models():
            self.configure_export()
        for judge in judges:
            with self.loading_models() if self.shard_judges else nullcontext():
                load_frozen(judge, self.policy, self.policy_source.path)
            shard_judge(judge, sharding, getattr(self._trainer, "precision", None), cut=self.shard_judges)
        with self.loading_models():
            critic = build_critic(self.critic_kind, self.policy, self.critic_source)
        self.critic, self.policy = sharding.shard(critic), sharding.shard(self.policy)
        if self.reference_source is not None or not is_adapted(self.policy):
            with self.loading_models():
                reference = freeze(load_causal_lm(self.reference_source or self.policy_source))
            self.reference = sharding.shard(reference)
        self._build_actors()

    def _build_actors(self) -> None:
        shared: Any = {"offload": self.offload, "sharding": self.sharding}
        self.judging = Judging(self.judge, self.heldout_judge, self.reward, tokenizer=self.tokenizer, **shared)
        self.actors = Actors(
            *(self.policy, self.critic, self.reference, self.tokenizer, self.sampling),
            judging=self.judging,
            server=self.rollout_server,
            gather=self.gather_rollouts,
            with_entropy=self.ppo.entropy_coef > 0,
            **shared,
        )

    def configure_export(self) -> None:
        """Read the policy alone, with all adapters that a checkpoint has of it."""
        self.policy = load_causal_lm(self.policy_source).train()
        if self.critic_kind == "adapter":
            add_adapters(self.policy, AdapterCritic.NAME)

    def on_fit_start(self) -> None:
        """Check settings against each other, before a rollout is paid for, and start the records."""
        check_run(self.ppo, self.sampling.per_prompt, self.trainer)
        if self.rollout_server is not None:
            judges = [each for judge in filter(None, (self.judge, self.heldout_judge)) for each in judge.leaves()]
            read = [self.reference_source, self.critic_source, *judges]
            paths = [getattr(each, "path", None) for each in read]
            check_server(self.rollout_server, self.policy, self.sharding, self.policy_source.path, paths)
        self.health.folder = health_folder(self.trainer)
        self.start_validations()
        if journal := self._anchor_journal:
            journal.truncate_after(self.validation.batch)

    def configure_optimizers(self) -> Any:
        """Policy and critic under one optimizer."""
        return optimizers.configure_actor_critic(
            *(self.policy, self.critic, self.optimization, self.trainer),
            critic_learning_rate=self.critic_learning_rate,
            iterations=self.iterations,
            critic_warmup=lambda: self.warmup.length,
        )

    # ---- one iteration

    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Tensor]:
        """Prompts -> rollout -> anchors -> judge -> rewards and advantages -> minibatch updates -> logs."""
        self.meter.clear()
        iteration = self.batches_done() + 1
        rollout = self.generate(batch.repeat(self.sampling.per_prompt))  # policy samples
        rollout = self.place_anchors(batch, rollout)
        scores = self.judge_responses(rollout)  # against the anchors, both orders
        experience = self.assemble(rollout, scores)  # reference, critic, rewards, advantages
        if not self.health.is_sound(iteration, rollout, scores, experience):
            self.log_dict(self.health.record.numbers(), rank_zero_only=True, batch_size=len(rollout))
            self.lr_schedulers().step()  # type: ignore[union-attr]  # the schedule counts iterations
            return {"responses": rollout.response_ids, "rewards": experience.rewards}
        stats = self.update(experience)  # losses, backward, clip, step
        stats |= self.anchors.update(rollout, scores, self.actors)
        self.log_iteration(scores, rollout, experience, stats)
        if not self.warmup.is_active(self.batches_done()):  # a policy that does not move has no KL to steer
            self.kl.update(sequence_kl(experience), int(global_sum(experience.counted.sum())))
        return {"responses": rollout.response_ids, "rewards": experience.rewards}  # for the run ledger

    def place_anchors(self, batch: PromptBatch, rollout: Rollout) -> Rollout:
        """Give each response what it is compared with."""
        with self.phase("anchors"):
            return rollout.anchored(self.anchors.anchors_for(batch, rollout.texts, self.actors))

    @torch.no_grad()
    def assemble(self, rollout: Rollout, scores: Scores) -> Experience:
        """Score the rollout under policy, reference and critic, and turn it all into constants.

        A response without a reward stays in its place, so that all ranks take the same steps, and counts for nothing.
        """
        with self.phase("score"):
            rollout = rollout.without(scores.failed)
            groups = split_microbatches(len(rollout), self.ppo.microbatch_size)
            old, ref, values = self.actors.score(rollout, groups)
            return assemble(
                rollout,
                scores.rewards,
                old_logprobs=old,
                ref_logprobs=ref,
                values=values,
                microbatches=groups,
                kl_coef=self.kl.coef,
                reward=self.reward,
                ppo=self.ppo,
                max_length=self.sampling.max_new_tokens,
            )

    def update(self, experience: Experience) -> dict[str, float]:
        """Several epochs of minibatches; ends early when the policy has moved past `stop_kl`."""
        history: list[dict[str, float]] = []
        explained = explained_variance(experience.values, experience.returns, experience.rollout.response_mask)
        with self.phase("update"):
            self.warmup.observe(self.batches_done(), float(explained))
            for groups in schedule_minibatches(experience.microbatches, self.ppo.minibatches, self.ppo.epochs):
                if (stats := self.step(experience, groups)) is None:
                    break
                history += [stats] if stats else []
                if self.ppo.stop_kl is not None and stats.get("approx_kl", 0.0) > self.ppo.stop_kl:
                    break
            self.lr_schedulers().step()  # type: ignore[union-attr]
        first = {"first_ratio": history[0]["ratio_mean"]} if history and "ratio_mean" in history[0] else {}
        last = {"num_steps": len(history), "value/explained_var": float(explained)}
        return {**mean_over_steps(history), **first, **last}

    def step(self, experience: Experience, groups: list[Tensor]) -> dict[str, float] | None:
        """One optimizer step over a minibatch made of micro-batches.

        There is none for numbers that are not finite (None), nor for responses that all have no reward ({}).
        """
        mask = experience.rollout.response_mask
        tokens, rows_total = count_global(mask, groups)
        if not int(tokens):
            return {}
        warming_up = self.warmup.is_active(self.batches_done())
        totals: dict[str, Tensor] = {}
        sharding = self.sharding
        for rows in groups:
            sharding.begin_microbatch(last=rows is groups[-1])
            part = experience.select(rows)
            if warming_up:
                values = self.actors.values(part.rollout)
                logprobs = entropy = None
            else:
                logprobs, values, entropy = self.actors.evaluate(part.rollout)
            weights = token_weights(part.rollout.response_mask, self.ppo.aggregation, tokens, rows_total)
            loss, stats = ppo_objective(
                part, logprobs, values, entropy, weights, kl_coef=self.kl.coef, ppo=self.ppo, reward=self.reward
            )
            self.manual_backward(loss * world_size())  # gradients are averaged over ranks, weights are global
            accumulate(totals, stats)
        optimizer: Any = self.optimizers()
        norm = sharding.clip(self.parameters(), self.ppo.max_grad_norm)
        found = {**reduce_over_ranks(totals), "grad_norm": float(norm)}
        if allowed := self.health.allows_step(found):
            optimizer.step()
        sharding.zero_grad(optimizer)
        return found if allowed else None

    # ---- logging

    def log_iteration(self, scores: Scores, rollout: Rollout, experience: Experience, stats: dict[str, float]) -> None:
        """Log the numbers of an iteration, the histograms, and what happened to anchors."""
        iteration, num_rows = self.batches_done() + 1, len(rollout) * world_size()
        run: Any = {"reward": self.judge, "kl_coef": self.kl.coef, "meter": self.meter, "iteration": iteration}
        numbers = iteration_metrics(scores, rollout, experience, stats, **run)
        numbers |= self.health.watch(numbers)
        numbers = {"reward/score_std": 0.0, "kl/k1_stderr": 0.0, **numbers}
        self.log_dict(numbers, rank_zero_only=True, batch_size=num_rows)
        reward = "reward/win_prob" if scores.verdict is not None else "reward/score"
        shown = {"win": numbers[reward], "kl": numbers["kl/k1"], "tok/s": numbers["perf/tok_s"]}
        self.log_dict(shown, prog_bar=True, logger=False, rank_zero_only=True, batch_size=num_rows)
        if journal := self._anchor_journal:
            journal.append(iteration, self.anchors.events())
        if self.tensorboard is not None:
            draw_iteration(self.tensorboard, scores, experience, self.logged_step())

    @property
    def _anchor_journal(self) -> EventLog | None:
        """Return the log of replaced anchors; None on all ranks but the first, and in a dry run."""
        kept = self.trainer.is_global_zero and not is_dry_run(self.trainer)
        return EventLog(Path(self.trainer.default_root_dir, "anchors.jsonl")) if kept else None

    # ---- life cycle

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the run after the last iteration."""
        self.trainer.should_stop |= self.batches_done() >= self.iterations

    def on_train_start(self) -> None:
        """Lay out the page of TensorBoard; end a run that was complete when it stopped."""
        super().on_train_start()
        if self.tensorboard is not None:
            self.tensorboard.add_custom_scalars(LAYOUT)
        self.trainer.should_stop |= self.batches_done() >= self.iterations
        self.end_if_over()

    def _optimizer_settings(self) -> dict[str, float | None]:
        return {**super()._optimizer_settings(), "critic_learning_rate": self.critic_learning_rate}

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the policy as a folder for transformers."""
        save_model(self.policy, self.tokenizer, folder, merge=merge)
