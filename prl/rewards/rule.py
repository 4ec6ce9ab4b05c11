"""Rewards by a rule: a function of prompt, response and the row's columns, such as a verifier."""

from collections.abc import Callable
from typing import Any

import torch

from prl.rewards.base import RewardSource, scores_from_values
from prl.types import Conversation, Rollout, Scores

Rule = Callable[[Conversation, str, dict[str, Any]], float | None]
"""(prompt, response, the row's other columns) -> a number; None where the rule cannot decide."""


def exact_match(prompt: Conversation, response: str, row: dict[str, Any]) -> float | None:
    """Return 1 when the response is the text of the column `answer`, else 0; None for a row without the column."""
    return None if row.get("answer") is None else float(response.strip() == str(row["answer"]).strip())


def characters(prompt: Conversation, response: str, row: dict[str, Any]) -> float:
    """Return the length of the response in characters."""
    return float(len(response))


class RuleReward(RewardSource):
    """Reward each response by a rule, whatever its anchors.

    A response has no reward where the rule raises, or returns None or NaN: it is left out of the update and counted.
    Where every row has anchors, the rule's numbers for them decide the comparisons.

    Args:
        rule: function, in YAML by its import path: `mypackage.checks.runs_tests`.
        scale: multiplies its numbers.
    """

    needs_anchors = False

    def __init__(self, rule: Rule = exact_match, scale: float = 1.0) -> None:
        super().__init__()
        self.rule, self.scale = rule, scale
        self._failure: str | None = None

    def failure(self) -> str | None:
        """Return the last error of the rule, or what it returned instead of a number."""
        return self._failure

    def value(self, prompt: Conversation, response: str, row: dict[str, Any]) -> float:
        """Apply the rule to one response; NaN where it has no number."""
        name = getattr(self.rule, "__name__", type(self.rule).__name__)
        try:
            value = self.rule(prompt, response, row)
        except Exception as error:  # a rule is user code: one bad response must not end the run
            self._failure = f"{name} raised {type(error).__name__}: {error}"
            return float("nan")
        if value is None or value != value:
            self._failure = f"{name} returned {value} for the response {response[:60]!r}; columns: {sorted(row)}"
            return float("nan")
        return float(value) * self.scale

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by the rule's number."""
        batch = rollout.batch
        extras = batch.extras or [{}] * len(batch)

        def values_of(rows: list[int], texts: list[str]) -> torch.Tensor:
            values = [self.value(batch.prompts[i], text, extras[i]) for i, text in zip(rows, texts, strict=True)]
            return torch.tensor(values, device=batch.prompt_ids.device)

        return scores_from_values(rollout, values_of)
