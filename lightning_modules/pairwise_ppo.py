"""Pairwise PPO (DESIGN 1.2): raise the probability that the policy's response beats an anchor under the judge."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules import optimizers
from lightning_modules.policies import RunPolicies
from lightning_modules.ppo_dashboard import LAYOUT
from lightning_modules.ppo_health import PPOHealth
from lightning_modules.ppo_models import check_lengths, check_run, read_models
from lightning_modules.ppo_report import PPOReport
from lightning_modules.ppo_validation import PPOValidation
from lightning_modules.stage import Stage
from lightning_modules.strategies import Gather, before_microbatch, clip_gradients, discard_gradients, finish_judging
from prl.anchors.base import AnchorSource
from prl.anchors.sources import DatasetAnchors
from prl.config import PPO, Health, JudgeGate, ModelSource, Optimization, Reward, Sampling, Validation
from prl.data.encoding import PromptEncoder
from prl.data.rows.records import AnchoredPrompt
from prl.data.tokens import OnTooLong
from prl.distributed import global_sum, world_size
from prl.judge.base import PairwiseJudge
from prl.models.adapters import add_adapters
from prl.models.critic import AdapterCritic, CriticKind, check_critic, explained_variance
from prl.models.loading import load_causal_lm, load_tokenizer, save_model
from prl.models.offload import Residence
from prl.models.policy import in_own_type
from prl.objectives.policy.ppo import ppo_objective, token_weights
from prl.rewards.base import RewardSource
from prl.rl.critic_warmup import CriticWarmup
from prl.rl.experience import assemble
from prl.rl.kl_controller import AdaptiveKL, FixedKL, KLController
from prl.rl.minibatch import schedule_minibatches, split_microbatches
from prl.rl.phase_timer import PhaseMeter
from prl.rl.step_statistics import accumulate, agree, over_steps
from prl.rollouts.generate import end_token_ids
from prl.rollouts.server import RolloutServer
from prl.types import Experience, PromptBatch, Rollout, Scores


class PairwisePPOModule(Stage):
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
        super().__init__()
        check_critic(critic, policy, critic_model)
        if policy.path is None and reference is None:
            raise ValueError("policy has random weights (config), so there is no start to read as reference; use path")
        if heldout_judge is not None and judge.folder is not None and heldout_judge.folder == judge.folder:
            raise ValueError(f"heldout_judge is the judge itself ({judge.folder}) and would show no gap; give another")
        self.automatic_optimization = False
        self.policy_source, self.reference_source = policy, reference
        self.critic_kind, self.critic_source = critic, critic_model or policy
        self.judge, self.judge_gate, self.iterations, self.on_too_long = judge, judge_gate, iterations, on_too_long
        self.sampling, self.reward, self.ppo, self.optimization = sampling, reward, ppo, optimization
        self.rollout_server, self.shard_judges, self.gather_rollouts = rollout_server, shard_judges, gather_rollouts
        self.anchors = anchors or DatasetAnchors()
        self.anchors.check(sampling)
        self.max_prompt_length, self.critic_learning_rate = max_prompt_length, critic_learning_rate
        self.kl: KLController = FixedKL(reward.kl_coef)
        if reward.kl_target is not None:
            self.kl = AdaptiveKL(reward.kl_coef, reward.kl_target, reward.kl_horizon)
        self.warmup = CriticWarmup(ppo.critic_warmup, ppo.critic_warmup_until)
        self.policy: Any = None
        self.reference: Any = None
        self.critic: Any = None
        self.tokenizer = load_tokenizer(policy)
        self.heldout_judge, self.residence = heldout_judge, Residence(offload_frozen)
        self.policies, self.report = RunPolicies(self), PPOReport(self)
        self.validation, self.health = PPOValidation(self, validation), PPOHealth(self, health)
        self.meter = PhaseMeter()
        for name in ("kl", "warmup", "anchors", "validation"):
            self.run_state.register(name, getattr(self, name))
        self.run_state.register("health", self.health.record)

    # ---- set-up

    def build_encoder(self) -> PromptEncoder:
        """How this stage reads a prompt; the data module asks for it."""
        check_lengths(self)
        needs_anchors = self.anchors.reads_column and self.judge.needs_anchors
        return PromptEncoder(self.tokenizer, self.max_prompt_length, self.on_too_long, needs_anchors)

    def configure_model(self) -> None:
        """Read the models; safe to call twice."""
        if self.critic is None:
            read_models(self)
            self.end_ids = end_token_ids(self.policy, self.tokenizer)

    @contextmanager
    def judging(self, judge: RewardSource) -> Iterator[None]:
        """A judge at work, on its device and in its own type, until it has finished on all processes."""
        with self.residence.of(judge, self.device), in_own_type(self.device):
            yield
            finish_judging(judge)

    def configure_export(self) -> None:
        """Read the policy alone, with all adapters that a checkpoint has of it."""
        self.policy = load_causal_lm(self.policy_source).train()
        if self.critic_kind == "adapter":
            add_adapters(self.policy, AdapterCritic.NAME)

    def on_fit_start(self) -> None:
        """Check settings against each other, before a rollout is paid for (`check_run`), and start the records."""
        check_run(self)
        self.validation.start_fit()
        self.report.start_fit()

    def configure_optimizers(self) -> Any:
        """Policy and critic under one optimizer."""
        return optimizers.configure_actor_critic(self)

    # ---- one iteration

    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Tensor]:
        """Prompts -> rollout -> anchors -> judge -> rewards and advantages -> minibatch updates -> logs."""
        self.meter.clear()
        rollout, responses = self.generate(batch.repeat(self.sampling.per_prompt))  # policy samples
        anchored = self.place_anchors(batch, responses)
        scores = self.judge_responses(anchored, responses)  # against the anchors, both orders
        experience = self.assemble(rollout, scores)  # reference, critic, rewards, advantages
        if not self.health.is_sound(anchored, responses, scores, experience):
            self.lr_schedulers().step()  # type: ignore[union-attr]  # the schedule counts iterations
            return {"responses": rollout.response_ids, "rewards": experience.scores}
        stats = self.update(experience)  # losses, backward, clip, step
        stats |= self.anchors.observe(anchored, responses, scores, self.policies)
        self.report.training(scores, responses, rollout, experience, stats)
        if not self.warmup.is_active(self.batches_done()):  # a policy that does not move has no KL to steer
            self.kl.update(self.report.sequence_kl(experience), int(global_sum(experience.counted.sum())))
        return {"responses": rollout.response_ids, "rewards": experience.scores}  # for the run ledger

    def generate(self, batch: PromptBatch) -> tuple[Rollout, list[str]]:
        """Sample one response to each prompt: as tokens, and as text."""
        self.residence.send_home(self.judge, self.heldout_judge, self.reference)
        with self.phase("rollout"):
            rollout = self.policies.rollout(batch)
            return rollout, self.policies.responses(rollout)

    def place_anchors(self, batch: PromptBatch, responses: list[str]) -> PromptBatch:
        """The prompt of each rollout, with what it is compared with."""
        with self.phase("anchors"):
            anchors = self.anchors.place(batch, responses, self.policies)
        return batch.repeat(self.sampling.per_prompt).anchored(anchors)

    def judge_responses(self, batch: PromptBatch, responses: list[str]) -> Scores:
        """The reward of each response.

        Raises:
            ValueError: when none could be had, on any rank.
        """
        with self.phase("judge"), self.judging(self.judge):
            scores = self.judge.score(*self.policies.judged(batch, responses), self.reward).to(self.device)
        if not int(global_sum((~scores.failed).sum())):
            raise ValueError(
                f"none of the {len(responses)} responses could be rewarded; the last failure: "
                f"{self.judge.failure() or 'the reward is not a number, as of a model whose weights are damaged'}"
            )
        return scores

    @torch.no_grad()
    def assemble(self, rollout: Rollout, scores: Scores) -> Experience:
        """Score the rollout under policy, reference and critic, and turn it all into constants.

        A response without a reward stays in its place, so that all ranks take the same steps, and counts for nothing.
        """
        with self.phase("score"):
            rollout = rollout.without(scores.failed)
            groups = split_microbatches(len(rollout), self.ppo.microbatch_size)
            old, ref, values = self.policies.score(rollout, groups)
            return assemble(
                rollout,
                scores.values,
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
        return {**over_steps(history), **first, **last}

    def step(self, experience: Experience, groups: list[Tensor]) -> dict[str, float] | None:
        """One optimizer step over a minibatch made of micro-batches.

        There is none for numbers that are not finite (None), nor for responses that all have no reward ({}).
        """
        mask = experience.rollout.response_mask
        tokens = global_sum(torch.stack([mask[rows].sum() for rows in groups]).sum())
        if not int(tokens):
            return {}
        rows_total = global_sum(torch.stack([mask[rows].any(1).sum() for rows in groups]).sum())
        warming_up = self.warmup.is_active(self.batches_done())
        totals: dict[str, Tensor] = {}
        for rows in groups:
            before_microbatch(self.trainer, last=rows is groups[-1])
            part = experience.select(rows)
            if warming_up:
                values = self.policies.values(part.rollout)
                logprobs = entropy = None
            else:
                logprobs, values, entropy = self.policies.evaluate(part.rollout)
            weights = token_weights(part.rollout.response_mask, self.ppo.aggregation, tokens, rows_total)
            loss, stats = ppo_objective(
                part, logprobs, values, entropy, weights, kl_coef=self.kl.coef, ppo=self.ppo, reward=self.reward
            )
            self.manual_backward(loss * world_size())  # gradients are averaged over ranks, weights are global
            accumulate(totals, stats)
        optimizer: Any = self.optimizers()
        norm = clip_gradients(self.trainer, self.parameters(), self.ppo.max_grad_norm)
        found = {**agree(totals), "grad_norm": float(norm)}
        if allowed := self.health.allows_step(found):
            optimizer.step()
        discard_gradients(self.trainer, optimizer)
        return found if allowed else None

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self.validation.start()

    @torch.no_grad()
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Sample with the same draws every time, judge against the anchors, measure the KL to the reference."""
        self.validation.step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Win rates with their intervals, KL, the gap between judges, samples."""
        self.validation.finish()

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Testing reports what validation does."""
        self.validation_step(batch, batch_idx)

    @torch.no_grad()
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """For each validation prompt: a sampled response, and its win probability against each anchor."""
        return self.validation.predict(batch, batch_idx)

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end

    # ---- life cycle

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the run after the last iteration."""
        self.trainer.should_stop |= self.batches_done() >= self.iterations

    def on_train_start(self) -> None:
        """Lay out the page of TensorBoard; end a run that was complete when it stopped."""
        super().on_train_start()
        if self.board is not None:
            self.board.add_custom_scalars(LAYOUT)
        self.trainer.should_stop |= self.batches_done() >= self.iterations
        self.validation.end_if_over()

    def _optimizer_settings(self) -> dict[str, float | None]:
        return {**super()._optimizer_settings(), "critic_learning_rate": self.critic_learning_rate}

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the policy as a folder for transformers."""
        save_model(self.policy, self.tokenizer, folder, merge=merge)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase of the iteration and show its name in the progress bar."""
        self.begin_phase(name)
        with self.meter.measure(name, self.device):
            yield
