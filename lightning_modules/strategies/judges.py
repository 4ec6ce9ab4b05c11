"""Judges whose models are in shards, of their own or of the policy's trunk."""

from typing import Any

from lightning_modules.strategies.spreading import is_sharded, settle_frozen, spread
from prl.judge.source import RewardSource
from prl.models.adapters import OnTrunk
from prl.models.in_step import InStep


def spread_judge(judge: RewardSource, trainer: Any, *, cut: bool) -> None:
    """Keep processes in step wherever a judge reads shards.

    Args:
        judge: ready to judge.
        trainer: None or one without shards leaves it alone.
        cut: put its own models in shards; those on the policy's trunk are.
    """
    if trainer is None or not is_sharded(trainer):
        return
    for source in judge.sources():
        each: Any = source
        model: Any = getattr(each, "model", None)
        on_trunk = isinstance(model, OnTrunk)
        if on_trunk or (model is not None and cut):
            each.model = InStep(model if on_trunk else spread(model, trainer), trainer.strategy.root_device)
            if getattr(each, "prefixes", None) is not None:
                each.prefixes.model = each.model


def finish_judging(judge: RewardSource) -> None:
    """Take part until the judge has read everything on all processes; each calls it once it has."""
    for source in judge.sources():
        model = getattr(source, "model", None)
        if isinstance(model, InStep):
            model.finish()
            settle_frozen(model)
