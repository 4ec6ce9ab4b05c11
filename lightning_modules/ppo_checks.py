"""Checks of a PPO run before its first rollout."""

from typing import Any

from lightning_modules.strategies import sharding_of
from prl.config import PPO, ModelSource
from prl.judge.base import PairwiseJudge
from prl.models.limits import check_fits
from prl.rewards.base import RewardSource
from prl.rl.minibatch import check_minibatches


def check_roles(
    policy: ModelSource,
    reference: ModelSource | None,
    judge: RewardSource,
    heldout: PairwiseJudge | None,
    iterations: int,
) -> None:
    """Raises ValueError for a run without a start to stay near or an iteration, or with one judge in two roles."""
    if iterations < 1:
        raise ValueError(f"model.init_args.iterations is {iterations}; expected at least 1")
    if policy.path is None and reference is None:
        raise ValueError("policy has random weights (config), so there is no start to read as reference; use path")
    if heldout is not None and judge.folder is not None and heldout.folder == judge.folder:
        raise ValueError(f"heldout_judge is the judge itself ({judge.folder}) and would show no gap; give another")


def check_lengths(models: dict[str, ModelSource | None], tokenizer: Any, length: int) -> None:
    """Refuse models that cannot read a rollout.

    Args:
        models: by role; None for one that is not read.
        tokenizer: of all.
        length: longest prompt and response together, tokens.

    Raises:
        ValueError: naming the role, when a model lacks tokens or positions.
    """
    for role, source in models.items():
        if source is not None:
            setting = "max_prompt_length plus sampling.max_new_tokens"
            check_fits(source, tokenizer, length, role=role, setting=setting)


def check_warmup(ppo: PPO, trainer: Any) -> None:
    """Raises ValueError when the critic warms up under DDP that waits for gradients of the policy."""
    if ppo.critic_warmup > 0 and sharding_of(trainer).waits_for_all_gradients:
        raise ValueError(
            "while the critic warms up (ppo.critic_warmup) the policy has no gradients, for which this DDP would wait; "
            "use --trainer.strategy ddp_find_unused_parameters_true (configs/strategies/ddp.yaml)"
        )


def check_run(ppo: PPO, per_prompt: int, trainer: Any) -> None:
    """Refuse settings that do not fit together.

    Args:
        ppo: the update.
        per_prompt: rollouts of each prompt.
        trainer: with its data module.

    Raises:
        ValueError: when an iteration has fewer micro-batches than minibatches, gradients come scaled, or DDP waits for
            gradients that do not come.
    """
    check_warmup(ppo, trainer)
    if trainer.precision == "16-mixed":
        raise ValueError(
            "trainer.precision 16-mixed scales gradients, and clipping them would clip the scale; use bf16-mixed"
        )
    rows = getattr(trainer.datamodule, "batch_size", 0) * per_prompt // trainer.world_size
    if rows:
        check_minibatches(-(-rows // ppo.microbatch_size), ppo.minibatches)
