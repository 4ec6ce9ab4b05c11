"""A weighted sum of reward sources, some of which count only where others give a reward."""

import torch
from torch import Tensor

from prl.rewards.base import RewardSource
from prl.rewards.shapers.base import RewardShaper
from prl.rewards.weighted import WeightedReward


class GatedReward(WeightedReward):
    """Reward sum_k weight_k * reward_k * gate_k, gate_k the reward of another source, or 1 for a source without a gate.

    With sources `format`, `outcome` and `think`, weights of 1 and `gates: {think: outcome}` it is
    R_format + R_outcome + R_outcome * R_think, the reward of Posterior-GRPO (2508.05170): good thoughts count where
    they lead to a right answer, so that thoughts that please the reward model alone gain nothing. Where a gate is 0,
    what it gates is 0 too, even where that source fails; elsewhere a response for which any source fails has no reward.

    A source gates with its reward after its own shaping and before its weight. It is no reward shaper, because a shaper
    sees the sum alone.

    Args:
        sources: the sources by name; `rewards/<name>/mean` in the logs, before gate and weight.
        weights: the weight of each source, by name.
        gates: name of the source that gates, by the name of the gated one.
        shaping: shapers of single sources by name, applied before gates and sum.

    Raises:
        ValueError: when the names differ, there is no source or no gate, a source gates itself, or a gate is gated.
    """

    def __init__(
        self,
        sources: dict[str, RewardSource],
        weights: dict[str, float],
        gates: dict[str, str],
        shaping: dict[str, list[RewardShaper]] | None = None,
    ) -> None:
        super().__init__(sources, weights, shaping)
        if not gates or {*gates, *gates.values()} - sources.keys():
            raise ValueError(
                f"GatedReward.gates is {gates}, but the sources are {sorted(sources)}; expected a gated source and its "
                "gate among them"
            )
        if chained := sorted(set(gates) & set(gates.values())):
            raise ValueError(
                f"GatedReward.gates is {gates}, where {chained} gate and are gated; expected gates without a gate"
            )
        self.gates = dict(gates)
        if self.component_names is not None:  # a shaper would read a gated source without its gate
            self.component_names = tuple(name for name in self.component_names if name not in gates)

    def combine(self, parts: dict[str, Tensor]) -> Tensor:
        """Sum the rewards of all sources by their weights and gates: [B] each -> [B]."""
        counted = dict(parts)
        for name, gate in self.gates.items():
            counted[name] = torch.where(parts[gate] == 0, 0.0, parts[gate] * parts[name])
        return super().combine(counted)
