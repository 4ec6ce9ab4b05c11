"""Checks of a run of reinforcement learning before its first rollout."""

from collections.abc import Sequence
from typing import Any

from lightning_modules.strategies import sharding_of
from prl.advantages.base import AdvantageEstimator
from prl.anchors.base import AnchorSource
from prl.config import CriticSettings, KLPenalty, ModelSource, Sampling, Update
from prl.judge.base import PairwiseJudge
from prl.judge.run_gate import RunFacts
from prl.models.limits import check_fits
from prl.objectives.policy.base import PolicyObjective
from prl.rewards.base import RewardSource
from prl.rewards.shapers.base import RewardShaper
from prl.rl.minibatch import check_minibatches
from prl.rollouts.base import Sampler
from prl.rollouts.filters.base import RolloutFilter


def check_roles(
    policy: ModelSource,
    reference: ModelSource | None,
    reward: RewardSource,
    heldout: PairwiseJudge | None,
    iterations: int,
    patience: int | None = None,
) -> None:
    """Refuse a run without a reference or iterations, or with a judge or patience that has no part in it.

    Raises:
        ValueError: naming the setting.
    """
    if iterations < 1:
        raise ValueError(f"model.init_args.iterations is {iterations}; expected at least 1")
    if policy.path is None and reference is None:
        raise ValueError("policy has random weights (config), so there is no start to read as reference; use path")
    if heldout is not None and reward.folder is not None and heldout.folder == reward.folder:
        raise ValueError(f"heldout_judge is the judge itself ({reward.folder}) and would show no gap; give another")
    if heldout is not None and not reward.compares:
        raise ValueError(
            f"heldout_judge compares responses with anchors, and validations of reward: {type(reward).__name__} have "
            "none; set heldout_judge to null"
        )
    if patience is not None and not reward.compares:
        raise ValueError(
            f"validation.patience waits for a better win rate, and validations of reward: {type(reward).__name__} have "
            "none; set it to null"
        )


def check_lengths(
    models: dict[str, ModelSource | None],
    tokenizer: Any,
    max_prompt_length: int,
    sampling: Sampling,
    sampler: Sampler,
    reward: RewardSource,
) -> None:
    """Refuse models that cannot read what a run gives them, and tell the reward source what its token ids mean.

    Args:
        models: the models by role; None for a role without a model.
        tokenizer: tokenizer of all models.
        max_prompt_length: longest prompt, tokens.
        sampling: settings of sampling.
        sampler: the sampler of responses, and of prompts that it writes for the policy.
        reward: the reward source.

    Raises:
        ValueError: naming the role, when a model lacks tokens or positions, or reads the ids otherwise.
    """
    for role, source in models.items():
        if source is not None:
            setting, length = "max_prompt_length plus sampling.max_new_tokens", max_prompt_length
            check_fits(source, tokenizer, length + sampling.max_new_tokens, role=role, setting=setting)
    written, policy = sampler.max_prompt_length, models["policy"]
    if written is not None and policy is not None:
        setting = f"{type(sampler).__name__}.max_prompt_length plus sampling.max_new_tokens"
        check_fits(policy, tokenizer, written + sampling.max_new_tokens, role="policy", setting=setting)
    sampler.attach_tokenizer(tokenizer)
    for each in reward.leaves():
        each.attach_tokenizer(tokenizer, max_prompt_length + sampling.max_new_tokens)


def check_methods(
    advantage: AdvantageEstimator,
    critic: CriticSettings | None,
    filters: Sequence[RolloutFilter],
    anchors: AnchorSource,
    objective: PolicyObjective,
    sampling: Sampling,
    sampler: Sampler,
    reward: RewardSource,
    shaping: Sequence[RewardShaper] = (),
) -> CriticSettings | None:
    """Check what the chosen methods need against what the run has.

    Args:
        advantage: the advantage estimator.
        critic: settings of the critic; None where the configuration has none.
        filters: the rollout filters.
        anchors: the anchor source.
        objective: objective of the policy.
        sampling: settings of sampling.
        sampler: the sampler of responses.
        reward: the reward source.
        shaping: the reward shapers.

    Returns:
        The settings of the critic to build; None for none.

    Raises:
        ValueError: for a shaper that reads another reward, a critic that no method needs, fewer responses to a prompt
            than a method compares, anchors that are not the other responses where a method compares with these, marks
            of steps that nobody gives, or a sampler as `_check_sampler`.
    """
    anchors.check(sampling)
    _check_sampler(sampler, reward, sampling)
    for shaper in shaping:
        shaper.check(reward.component_names)
    comparing: list[tuple[str, Any]] = [("advantage", advantage), ("objective", objective)]
    comparing += [("reward", each) for each in reward.leaves()]
    for setting, each in comparing + [("filters", each) for each in filters]:
        if sampling.per_prompt < each.min_per_prompt:
            raise ValueError(
                f"{setting}: {type(each).__name__} compares the responses of a prompt, at least {each.min_per_prompt}, "
                f"and sampling.per_prompt is {sampling.per_prompt}; raise it"
            )
    _check_advantage(advantage, anchors, reward)
    if advantage.needs_critic:
        return critic or CriticSettings()
    if critic is not None:
        raise ValueError(
            f"critic is set, but advantage: {type(advantage).__name__} needs none, so none would be built; set critic "
            "to null"
        )
    return None


def _check_advantage(advantage: AdvantageEstimator, anchors: AnchorSource, reward: RewardSource) -> None:
    """Refuse an estimator that reads comparisons or marks of steps that nobody gives. Raises ValueError."""
    if advantage.compares_group and not anchors.are_group:
        raise ValueError(
            f"advantage: {type(advantage).__name__} compares the responses of a prompt with each other, and anchors: "
            f"{type(anchors).__name__} gives other responses to compare with; use prl.anchors.RoundRobin"
        )
    if advantage.needs_marks and not any(each.marks_steps for each in reward.leaves()):
        raise ValueError(
            f"advantage: {type(advantage).__name__} reads marks of steps, and reward: {type(reward).__name__} gives "
            "none; put it into prl.rewards.RuleMarks or prl.judge.ThoughtProcessJudge"
        )


def _check_sampler(sampler: Sampler, reward: RewardSource, sampling: Sampling) -> None:
    """Check what the sampler needs against what the run has.

    Raises:
        ValueError: for fewer responses to a prompt than the sampler needs, a reward that cannot tell it what responses
            lack, or one that takes the rewards of an environment where none answers.
    """
    if not sampler.has_environment and any(each.needs_environment for each in reward.leaves()):
        raise ValueError(
            f"reward: {type(reward).__name__} takes the rewards of an environment, and sampler: "
            f"{type(sampler).__name__} has none that answers; use prl.rollouts.Conversation"
        )
    if sampling.per_prompt < sampler.min_per_prompt:
        raise ValueError(
            f"sampler: {type(sampler).__name__} needs at least {sampler.min_per_prompt} responses to a prompt, and "
            f"sampling.per_prompt is {sampling.per_prompt}; raise it"
        )
    if sampler.needs_critique and not reward.gives_critique:
        raise ValueError(
            f"sampler: {type(sampler).__name__} asks what responses lack, and reward: {type(reward).__name__} cannot "
            "tell; use a rubric as the reward (prl.rewards.RuleRubric, prl.judge.EndpointRubric)"
        )


def run_facts(policy: ModelSource, trainer: Any) -> RunFacts:
    """Tell the gate which run a judge is to reward; without a trainer its prompts are not known."""
    return RunFacts(policy, getattr(getattr(trainer, "datamodule", None), "train_prompts", None))


def check_warmup(warmup: int, trainer: Any) -> None:
    """Refuse a critic warm-up under DDP that waits for gradients of the policy. Raises ValueError."""
    if warmup > 0 and sharding_of(trainer).waits_for_all_gradients:
        raise ValueError(
            "while the critic warms up (critic.warmup) the policy has no gradients, for which this DDP would wait; "
            "use --trainer.strategy ddp_find_unused_parameters_true (configs/strategies/ddp.yaml)"
        )


def check_run(update: Update, objective: PolicyObjective, kl: KLPenalty, per_prompt: int, trainer: Any) -> None:
    """Refuse settings that contradict each other.

    Args:
        update: epochs and minibatches.
        objective: objective of the policy.
        kl: settings of the KL penalty.
        per_prompt: rollouts of each prompt.
        trainer: the trainer, with its data module attached.

    Raises:
        ValueError: when an iteration has fewer micro-batches than minibatches, a micro-batch has no room for a prompt
            whose responses are compared, a KL would be in rewards that the objective does not read, or the precision
            scales losses.
    """
    if kl.coef > 0 and kl.placement == "reward" and not objective.reads_advantages:
        raise ValueError(
            f"kl.coef is {kl.coef} with placement: reward, and objective: {type(objective).__name__} reads no "
            "advantages, so that it would have no effect; set it to 0, or take placement: loss with estimator k2"
        )
    if trainer.precision == "16-mixed":
        raise ValueError(
            "trainer.precision 16-mixed scales gradients, and clipping them would clip the scale; use bf16-mixed"
        )
    rows = getattr(trainer.datamodule, "batch_size", 0) * per_prompt // trainer.world_size
    size = update.microbatch_size
    if objective.min_per_prompt > 1:
        if size < per_prompt:
            raise ValueError(
                f"update.microbatch_size is {size}, but objective: {type(objective).__name__} compares responses to a "
                f"prompt, {per_prompt} by sampling.per_prompt, which one micro-batch has to hold; raise it"
            )
        size -= size % per_prompt
    if rows:
        check_minibatches(-(-rows // size), update.minibatches)
