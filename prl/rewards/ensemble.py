"""Conservative reward of several scalar reward models: mean, worst case, or mean less variance."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from prl.models.collective import CollectiveForward
from prl.rewards.base import RewardSource, scores_from_values
from prl.rewards.scalar import ScalarReward
from prl.types import Rollout, Scores

Combine = Literal["mean", "worst", "uncertainty"]
Variance = Literal["population", "unbiased"]


def member_variance(rewards: Tensor, variance: Variance = "unbiased") -> Tensor:
    """Compute the variance over k members of an ensemble: [k, N] -> [N]; 0 for a single member.

    Args:
        rewards: [k, N] what each member says; NaN where it failed.
        variance: divide by k (population), or by k - 1 (unbiased).
    """
    by = max(len(rewards) - (variance == "unbiased"), 1)
    return (rewards - rewards.mean(0)).square().sum(0) / by


def combine_rewards(rewards: Tensor, combine: Combine, coef: float = 0.1, variance: Variance = "unbiased") -> Tensor:
    """Combine what k members say into one reward: [k, N] -> [N]; NaN where any member failed.

    Args:
        rewards: [k, N] what each member says; NaN where it failed.
        combine: mean; worst, the least reward (WCO); uncertainty, mean - coef * variance (UWO).
        coef: weight of the variance.
        variance: as of `member_variance`.
    """
    if combine == "worst":
        return rewards.amin(0)
    mean = rewards.mean(0)
    return mean if combine == "mean" else mean - coef * member_variance(rewards, variance)


class Ensemble(RewardSource):
    """Reward of several Bradley-Terry models, conservative where they disagree (Coste et al. 2023, 2310.02743).

    A policy exploits what one model gets wrong; models that began apart get different things wrong. Members are to
    differ in their seed at least. A response for which any member fails has no reward. With one member all ways of
    combining are that member. Anchors, where rows have any, serve the logged win rate only.

    Args:
        paths: folders of the members, written by training or `save_pretrained`, or ids on the hub.
        combine: mean; worst, the least reward (WCO); uncertainty, mean less `coef` times the variance (UWO).
        coef: weight of the variance. The authors' code has 0.1 in PPO and 0.5 in best-of-n.
        variance: unbiased divides by k - 1, as the authors' code in PPO; population by k, as in best-of-n.
        means: what is subtracted from the rewards of each member; a Bradley-Terry model learns no zero of its own, and
            `worst` depends on it. Nothing when null.
        stds: what they are divided by afterwards; 1 when null. The authors' code takes mean and standard deviation of
            each member over validation responses.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.

    Raises:
        ValueError: for no path, the same path twice, an unknown way of combining, a coef below 0, or means and stds
            that are not a number for each member, stds above 0.
    """

    needs_anchors = False
    component_names = None

    def __init__(
        self,
        paths: list[str],
        combine: Combine = "uncertainty",
        coef: float = 0.1,
        variance: Variance = "unbiased",
        means: list[float] | None = None,
        stds: list[float] | None = None,
        dtype: str = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        if not paths or len(set(paths)) < len(paths):
            raise ValueError(f"Ensemble.paths is {paths}; expected folders of one model or more, each of them once")
        for name, given, known in (("combine", combine, Combine), ("variance", variance, Variance)):
            if given not in get_args(known):
                raise ValueError(f"Ensemble.{name} is {given!r}; expected one of {', '.join(get_args(known))}")
        if not 0 <= coef < math.inf:
            raise ValueError(f"Ensemble.coef is {coef}; expected a finite number of at least 0")
        self.combine, self.coef, self.variance = combine, coef, variance
        self.means = _of_each("means", means, len(paths), 0.0)
        self.stds = _of_each("stds", stds, len(paths), 1.0)
        if min(self.stds) <= 0:
            raise ValueError(f"Ensemble.stds is {stds}; expected numbers above 0")
        self.members = nn.ModuleList(ScalarReward(path, dtype, batch_size) for path in paths)

    def load(self) -> None:
        """Load each member."""
        for member in self.leaves():
            member.load()

    def leaves(self) -> Iterator[RewardSource]:
        """Yield the members."""
        members: Any = self.members
        yield from members

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by what the members say together, and keep what each of them says, and their variance.

        All texts are put to one member before the next, since processes that shard the weights must be at the same one.
        """
        texts, anchors_of = [text.strip() for text in rollout.texts], rollout.batch.anchors
        asked = list(enumerate(texts))
        if all(anchors_of):
            asked += [(row, anchor) for row, anchors in enumerate(anchors_of) for anchor in anchors]
        said = torch.stack([self._rewards(place, rollout, asked) for place in range(len(self.members))])
        combined = combine_rewards(said, self.combine, self.coef, self.variance)
        place_of = {each: place for place, each in enumerate(asked)}

        def values_of(rows: list[int], texts: list[str]) -> Tensor:
            places = [place_of[each] for each in zip(rows, texts, strict=True)]
            return combined[torch.tensor(places, dtype=torch.long, device=combined.device)]

        of_responses = said[:, : len(rollout)]
        parts = {f"member_{place}": each for place, each in enumerate(of_responses, start=1)}
        parts["variance"] = member_variance(of_responses, self.variance)
        return replace(scores_from_values(rollout, values_of), components=parts)

    def _rewards(self, place: int, rollout: Rollout, asked: Sequence[tuple[int, str]]) -> Tensor:
        """Normalised rewards of one member for texts, each with its row of the rollout: [N]."""
        member: Any = self.members[place]
        prompts = [rollout.batch.prompts[row] for row, _ in asked]
        rewards = member.rewards(prompts, [text for _, text in asked])
        if isinstance(member.model, CollectiveForward):
            member.model.finish()
        return (rewards - self.means[place]) / self.stds[place]

    def truncated_fraction(self) -> float:
        """Return the largest truncated share of any member."""
        return max(member.truncated_fraction() for member in self.leaves())


def _of_each(name: str, given: list[float] | None, members: int, default: float) -> list[float]:
    found = [default] * members if given is None else list(given)
    if len(found) != members or not all(map(math.isfinite, found)):
        raise ValueError(f"Ensemble.{name} is {given}; expected a finite number for each of {members} members")
    return found
