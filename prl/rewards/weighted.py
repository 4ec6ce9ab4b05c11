"""A weighted sum of reward sources."""

from typing import cast

import torch
from torch import Tensor

from prl.rewards.base import RewardSource
from prl.rewards.named import NamedSources
from prl.rewards.per_token import PerTokenSource
from prl.rewards.shapers.base import RewardShaper, shape
from prl.types import Rollout, Scores


class WeightedReward(NamedSources):
    """Reward sum_k weight_k * reward_k; a response for which any source fails has no reward.

    Win rates are computed from the verdict of the first source that has one.

    Args:
        sources: the sources by name; `rewards/<name>/mean` in the logs.
        weights: the weight of each source, by name.
        shaping: shapers of single sources by name, applied before the sum; the run's shapers are applied to the sum.

    Raises:
        ValueError: when the names differ, there is no source, a source has a shaper with a state, or says something of
            single tokens, which has no place in a sum.
    """

    def __init__(
        self,
        sources: dict[str, RewardSource],
        weights: dict[str, float],
        shaping: dict[str, list[RewardShaper]] | None = None,
    ) -> None:
        super().__init__(sources)
        if not sources or sources.keys() != weights.keys():
            raise ValueError(
                f"sources are named {sorted(sources)}, weights {sorted(weights)}; expected one weight for each source"
            )
        for name, source in sources.items():
            for each in source.leaves():
                if each.rewards_tokens:
                    kind = type(each).__name__
                    fix = f"put the sum into {kind}.reward" if isinstance(each, PerTokenSource) else "set dense: false"
                    raise ValueError(
                        f"sources.{name} has {kind}, and what it says of tokens has no place in a sum; {fix}"
                    )
        self.weights, self.shaping = dict(weights), dict(shaping or {})
        if unknown := sorted(self.shaping.keys() - sources.keys()):
            raise ValueError(f"shaping names {unknown}, but the sources are {sorted(sources)}")
        shapers = [each for some in self.shaping.values() for each in some]
        if stateful := sorted({type(each).__name__ for each in shapers if hasattr(each, "load_state_dict")}):
            # Validations score by the sources too, and would move the state.
            raise ValueError(
                f"shaping of a source has {stateful}, whose state is to follow the rewards of training alone; put it "
                "into the run's shaping"
            )
        inner = {name: source.component_names for name, source in sources.items()}
        if None not in inner.values():
            nested = (f"{name}/{each}" for name, names in inner.items() for each in names or ())
            self.component_names = (*sources, *nested)
        else:
            self.component_names = None
        self.needs_anchors = any(source.needs_anchors for source in sources.values())
        self.needs_anchors |= any(shaper.needs_anchors for shaper in shapers)

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by the weighted sum, and keep each part of it."""
        scores = {
            name: shape(source.score(rollout), rollout, self.shaping.get(name, ())) for name, source in self.named()
        }
        device = rollout.response_ids.device
        parts = {name: each.rewards.float().to(device) for name, each in scores.items()}
        total = self.combine(parts)
        told = next((each for each in scores.values() if each.verdict is not None), None)
        nested = {f"{name}/{inner}": part for name, each in scores.items() for inner, part in each.components.items()}
        verdict, index = (told.verdict, told.response_index) if told is not None else (None, None)
        marked = [each.left_out.to(device) for each in scores.values() if each.left_out is not None]
        left_out = torch.stack(marked).any(0) if marked else None
        return Scores(total, verdict, index, {**parts, **nested}, left_out=left_out)

    def combine(self, parts: dict[str, Tensor]) -> Tensor:
        """Sum the rewards of all sources by their weights: [B] each -> [B]."""
        return cast(Tensor, sum(self.weights[name] * values for name, values in parts.items()))
