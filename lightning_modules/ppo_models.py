"""The models of a pairwise PPO run: read one after the other, each spread before the next, and made ready."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from lightning_modules.strategies import spread_judge, waits_for_all_gradients
from prl.judge.gate import check_judge
from prl.models.adapters import is_adapted
from prl.models.critic import build_critic
from prl.models.limits import check_fits
from prl.models.loading import freeze, load_causal_lm
from prl.rewards.base import make_ready
from prl.rl.minibatch import check_minibatches

if TYPE_CHECKING:
    from lightning_modules.pairwise_ppo import PairwisePPOModule


def read_models(module: "PairwisePPOModule") -> None:
    """Judges, policy, critic and, unless the policy with its adapters off is that, the reference."""
    judges = [*filter(None, (module.judge, module.heldout_judge))]
    for judge in judges:
        check_judge(judge, module.judge_gate)
    with module.reading():
        module.configure_export()
    for judge in judges:
        with module.reading() if module.shard_judges else nullcontext():
            make_ready(judge, module.policy, module.policy_source.path)
        spread_judge(judge, module._trainer, cut=module.shard_judges)
    with module.reading():
        critic = build_critic(module.critic_kind, module.policy, module.critic_source)
    module.critic, module.policy = module.spread(critic), module.spread(module.policy)
    if module.reference_source is not None or not is_adapted(module.policy):
        with module.reading():
            reference = freeze(load_causal_lm(module.reference_source or module.policy_source))
        module.reference = module.spread(reference)


def check_lengths(module: "PairwisePPOModule") -> None:
    """Raises ValueError when policy, reference or critic cannot read all tokens or positions of a rollout."""
    models = {"policy": module.policy_source, "reference": module.reference_source}
    if module.critic_kind == "own":
        models["critic"] = module.critic_source
    for role, source in models.items():
        if source is not None:
            check_fits(
                source,
                module.tokenizer,
                module.max_prompt_length + module.sampling.max_new_tokens,
                role=role,
                setting="max_prompt_length plus sampling.max_new_tokens",
            )


def check_warmup(module: "PairwisePPOModule") -> None:
    """Raises ValueError when the critic warms up under DDP that waits for gradients of the policy."""
    if module.ppo.critic_warmup > 0 and waits_for_all_gradients(module.trainer.strategy):
        raise ValueError(
            "while the critic warms up (ppo.critic_warmup) the policy has no gradients, for which this DDP would wait; "
            "use --trainer.strategy ddp_find_unused_parameters_true (configs/strategies/ddp.yaml)"
        )


def check_run(module: "PairwisePPOModule") -> None:
    """Refuse settings that do not fit together, before a rollout is paid for.

    Raises:
        ValueError: when an iteration has fewer micro-batches than minibatches, gradients come scaled, DDP waits for
            gradients that do not come, or there is no server where rollouts are to come from.
    """
    check_warmup(module)
    if module.trainer.precision == "16-mixed":
        raise ValueError(
            "trainer.precision 16-mixed scales gradients, and clipping them would clip the scale; use bf16-mixed"
        )
    datamodule: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    rows = getattr(datamodule, "batch_size", 0) * module.sampling.per_prompt // module.trainer.world_size
    if rows:
        check_minibatches(-(-rows // module.ppo.microbatch_size), module.ppo.minibatches)
    if module.rollout_server is not None:
        module.policies.check_server(module.rollout_server)
