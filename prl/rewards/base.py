"""Where rewards come from: the one thing that the loop asks of judges, rules and mixtures of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from prl.config import ModelSource
from prl.models.loading import freeze
from prl.types import Conversation, Rollout, Scores, Verdict

Compare = Callable[[list[Conversation], list[str], list[str]], Verdict]
"""Prompts, responses a and responses b, as many of each, to their verdicts."""


class RewardSource(nn.Module, ABC):
    """Rewards responses. Boundary: text in, numbers out.

    Building one is cheap; `load` reads the weights, so a configuration can name one without paying for it.
    """

    folder: str | None = None
    """Where it was read from; None for one that has no files, such as a rule."""
    dtype: str | None = None
    """The type in which its model works; None for one that has none, such as a rule."""
    needs_anchors = True
    """Whether a response without an anchor has no reward."""

    def load(self) -> None:
        """Read what it needs; safe to call twice."""

    def model_source(self) -> ModelSource | None:
        """Where its model comes from, for an estimate of its memory; None for one without, or on the policy's trunk."""
        return None

    def attach_policy(self, policy: Any, policy_path: str | None) -> None:
        """See the policy before `load`, for a source that can use its weights; nothing by default."""

    def leaves(self) -> "Iterator[RewardSource]":
        """Itself, or what it is mixed from."""
        yield self

    @abstractmethod
    def score(self, rollout: Rollout) -> Scores:
        """Reward each response; NaN, never a stand-in, where the reward could not be had.

        Args:
            rollout: B responses with their prompts and anchors; `texts` are without thoughts, unless the run says that
                judges read those too.
        """

    def failure(self) -> str | None:
        """Why the last reward that is missing is missing; None when none was."""
        return None

    def truncated_fraction(self) -> float:
        """Share of the texts read so far that had to be cut to fit; 0 for one that reads everything."""
        return 0.0

    def cached_token_fraction(self) -> float:
        """Share of the tokens read so far that were not computed again; 0 for one that reads everything anew."""
        return 0.0


def load_frozen(source: RewardSource, policy: nn.Module, policy_path: str | None) -> None:
    """Load a source for a run of PPO, and freeze it, whoever wrote it: it is the reward, not a part that learns."""
    for each in source.leaves():
        each.attach_policy(policy, policy_path)
    source.load()
    freeze(source)


def scores_from_values(rollout: Rollout, values_of: Callable[[list[int], list[str]], Tensor]) -> Scores:
    """Rewards from a number per text; where every row has anchors, their numbers tell who won.

    Args:
        rollout: B responses.
        values_of: rows of the rollout and as many texts about them, to a number for each text.
    """
    anchors_of = rollout.batch.anchors
    values = values_of(list(range(len(rollout))), [text.strip() for text in rollout.texts])
    if not all(anchors_of):
        return Scores(values)
    row_of = [row for row, anchors in enumerate(anchors_of) for _ in anchors]
    margins = values[row_of] - values_of(row_of, [text for anchors in anchors_of for text in anchors])
    return Scores(values, Verdict(margins, -margins), torch.tensor(row_of, device=values.device))


def against_anchors(compare: Compare, rollout: Rollout) -> tuple[Verdict, Tensor]:
    """Compare each response with each of its anchors: N verdicts, and [N] the response that each is about.

    Responses are stripped, as the data layer strips those that judges learn from.
    """
    prompts, texts = rollout.batch.prompts, rollout.texts
    row_of = [row for row, anchors in enumerate(rollout.batch.anchors) for _ in anchors]
    anchors = [anchor for anchors in rollout.batch.anchors for anchor in anchors]
    verdict = compare([prompts[row] for row in row_of], [texts[row].strip() for row in row_of], anchors)
    return verdict, torch.tensor(row_of, dtype=torch.long, device=verdict.margin_ab.device)
