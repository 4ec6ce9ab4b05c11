"""Socket of reward sources: judges, rules, and weighted sums of sources."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prl.config import ModelSource
from prl.models.loading import freeze
from prl.rollouts.base import PolicyHandle
from prl.types import Conversation, Critique, Rollout, Scores
from prl.verdict import Verdict

Compare = Callable[[list[Conversation], list[str], list[str]], Verdict]
"""(prompts, responses a, responses b), N of each -> N verdicts."""


class RewardSource(nn.Module, ABC):
    """Rewards responses: text in, numbers out.

    Constructing a source is cheap; `load` reads the weights. The arguments of the constructor are the settings.
    """

    folder: str | None = None
    """Folder of the model; None for a source without files, such as a rule."""
    dtype: str | None = None
    """Type in which the model works; None for a source without a model, such as a rule."""
    needs_anchors = True
    """Whether a response without an anchor has no reward."""
    needs_environment = False
    """Whether the source needs a sampler with an environment, whose rewards it takes."""
    gives_critique = False
    """Whether `critique` tells what a response lacks."""
    min_per_prompt: ClassVar[int] = 1
    """Fewest responses per prompt that the source needs."""
    component_names: tuple[str, ...] | None = ()
    """Names in `Scores.components`; None where they are known from the models alone."""
    columns: tuple[str, ...] = ()
    """Columns of the prompts that `check_row` looks at."""
    compares = True
    """Whether validations compare with anchors; otherwise they log the mean of each of `Scores.components`."""
    rewards_tokens = False
    """Whether the source says something of single tokens, beside the reward of the response."""
    marks_steps = False
    """Whether the source marks the steps of responses (`Scores.step_marks`)."""

    def load(self) -> None:
        """Load weights and tokenizer; safe to call twice."""

    def model_source(self) -> ModelSource | None:
        """Return the source of the model, for memory estimates; None without a model or on the policy's base model."""
        return None

    def model_sources(self) -> dict[str, ModelSource]:
        """Return the sources of all models by their role; one has no role by default."""
        found = self.model_source()
        return {} if found is None else {"": found}

    def described_otherwise(self) -> dict[str, Any]:
        """Return what settings say in place of the folder, in the form of a passport's `judge`; empty by default."""
        return {}

    def attach_policy(self, policy: Any, policy_path: str | None) -> None:
        """Offer the policy before `load` to a source that can share its weights; does nothing by default."""

    def attach_handle(self, policy: PolicyHandle) -> None:
        """Offer the policy in training to a source that has it sample; does nothing by default."""

    def check_row(self, row: dict[str, Any]) -> None:
        """Refuse a row of prompts before the run, by its further columns. Raises RowError; does nothing by default."""

    def attach_tokenizer(self, tokenizer: Any, length: int) -> None:
        """Offer the policy's tokenizer, before models are read, to a source that reads token ids.

        Does nothing by default.

        Args:
            tokenizer: tokenizer of the rollouts.
            length: longest prompt and response together, tokens.

        Raises:
            ValueError: naming the setting, when a model of the source would read the ids otherwise, or not so many.
        """

    def leaves(self) -> "Iterator[RewardSource]":
        """Yield the source itself, or the sources of a weighted sum."""
        yield self

    def per_response(self) -> "RewardSource":
        """Return the source that rewards responses alike and says nothing of their tokens; itself by default."""
        return self

    @abstractmethod
    def score(self, rollout: Rollout) -> Scores:
        """Reward each response; NaN, never a substitute, where the reward failed.

        Args:
            rollout: B responses with their prompts and anchors; `texts` are without thoughts, unless the run has
                `judge_thoughts` set.
        """

    def critique(self, rollout: Rollout) -> list[Critique]:
        """Tell what each of B responses lacks, for a sampler; the next `score` may rely on what was found.

        Args:
            rollout: B responses as for `score`, which is called once with them and others after this.

        Raises:
            ValueError: for a source that cannot tell.
        """
        raise ValueError(f"{type(self).__name__} does not tell what a response lacks; use a rubric as the reward")

    def failure(self) -> str | None:
        """Return the reason of the last failed reward; None when none failed."""
        return None

    def truncated_fraction(self) -> float:
        """Return the share of texts so far that were truncated to fit; 0 for a source that never truncates."""
        return 0.0

    def cached_token_fraction(self) -> float:
        """Return the share of tokens so far that came from a cache; 0 for a source without a cache."""
        return 0.0

    def counters(self) -> list[Any]:
        """Return the objects in which the source counts what it has done so far; none by default."""
        return []

    def numbers(self) -> dict[str, float]:
        """Return what else is to be logged of this source, by whole tags; nothing by default."""
        return {}


def source_numbers(source: RewardSource) -> dict[str, float]:
    """Collect what is to be logged of a source and of the sources in it."""
    inside = [each for each in source.modules() if isinstance(each, RewardSource)]
    return {tag: number for each in inside for tag, number in each.numbers().items()}


@contextmanager
def uncounted(source: RewardSource) -> Iterator[None]:
    """Have a source, and those in it, count nothing of what they do inside, so that figures are of the training."""
    inside = [each for each in source.modules() if isinstance(each, RewardSource)]
    counters = [counter for each in inside for counter in each.counters()]
    before = [deepcopy(vars(counter)) for counter in counters]
    try:
        yield
    finally:
        for counter, numbers in zip(counters, before, strict=True):
            vars(counter).update(numbers)


def load_frozen(source: RewardSource, policy: nn.Module, policy_path: str | None) -> None:
    """Load a source for a run of PPO and freeze its weights, of classes of users too."""
    for each in source.leaves():
        each.attach_policy(policy, policy_path)
    source.load()
    freeze(source)


def scores_from_values(rollout: Rollout, values_of: Callable[[list[int], list[str]], Tensor]) -> Scores:
    """Make scores from a number per text; where every row has anchors, comparisons of numbers give verdicts.

    Args:
        rollout: B responses.
        values_of: (rows of the rollout, one text for each) -> one number for each text.
    """
    anchors_of = rollout.batch.anchors
    values = values_of(list(range(len(rollout))), [text.strip() for text in rollout.texts])
    if not all(anchors_of):
        return Scores(values)
    row_of = [row for row, anchors in enumerate(anchors_of) for _ in anchors]
    margins = values[row_of] - values_of(row_of, [text for anchors in anchors_of for text in anchors])
    return Scores(values, Verdict(margins, -margins), torch.tensor(row_of, device=values.device))


def against_anchors(compare: Compare, rollout: Rollout) -> tuple[Verdict, Tensor]:
    """Compare each response with each of its anchors: N verdicts, and [N] the row of the response of each.

    Responses are stripped, as in the data that judges learn from.
    """
    prompts, texts = rollout.batch.prompts, rollout.texts
    row_of = [row for row, anchors in enumerate(rollout.batch.anchors) for _ in anchors]
    anchors = [anchor for anchors in rollout.batch.anchors for anchor in anchors]
    verdict = compare([prompts[row] for row in row_of], [texts[row].strip() for row in row_of], anchors)
    return verdict, torch.tensor(row_of, dtype=torch.long, device=verdict.margin_ab.device)
