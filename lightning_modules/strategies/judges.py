"""Judges whose models are in shards, of their own or of the policy's trunk."""

from typing import Any

from lightning_modules.strategies.spreading import is_sharded, keeps_float32_copies, settle_frozen, spread
from prl.models.adapters import OnTrunk
from prl.models.collective import InStep
from prl.rewards.base import RewardSource


def spread_judge(judge: RewardSource, trainer: Any, *, cut: bool) -> None:
    """Keep processes in step wherever a judge reads shards.

    Args:
        judge: ready to judge.
        trainer: None or one without shards leaves it alone.
        cut: put its own models in shards; those on the policy's trunk are.

    Raises:
        ValueError: when the strategy would convert a judge to another type than its own.
    """
    if trainer is None:
        return
    _check_type(judge, trainer, cut=cut and is_sharded(trainer))
    if not is_sharded(trainer):
        return
    for source in judge.sources():
        each: Any = source
        model: Any = getattr(each, "model", None)
        on_trunk = isinstance(model, OnTrunk)
        if on_trunk or (model is not None and cut):
            each.model = InStep(model if on_trunk else spread(model, trainer), trainer.strategy.root_device)
            if getattr(each, "prefixes", None) is not None:
                each.prefixes.model = each.model


def _check_type(judge: RewardSource, trainer: Any, *, cut: bool) -> None:
    """DeepSpeed converts all weights that it gets, those of a judge in shards and of a shared trunk among them."""
    if not (keeps_float32_copies(trainer.strategy) and str(trainer.precision).startswith("bf16")):
        return
    for source in judge.sources():
        on_trunk = isinstance(getattr(source, "model", None), OnTrunk)
        if (on_trunk or cut) and source.dtype not in (None, "bfloat16"):
            where, way = ("on the policy's trunk", "shared_trunk") if on_trunk else ("in shards", "shard_judges")
            raise ValueError(
                f"the judge in {source.folder} is to work in {source.dtype} {where}, which DeepSpeed converts to "
                f"bfloat16 with trainer.precision {trainer.precision}; set dtype: bfloat16 for the judge"
                f"{' and the policy' if on_trunk else ''}, or {way}: false, or trainer.precision: 32-true"
            )


def finish_judging(judge: RewardSource) -> None:
    """Take part until the judge has read everything on all processes; each calls it once it has."""
    for source in judge.sources():
        model = getattr(source, "model", None)
        if isinstance(model, InStep):
            model.finish()
            settle_frozen(model)
