"""Marks of the steps of a response, right or wrong, beside the reward of another source."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from prl.data.steps import StepFinder
from prl.rewards.base import RewardSource
from prl.rewards.per_token import PerTokenSource
from prl.types import Conversation, Rollout, Scores

log = logging.getLogger(__name__)

Labels = Sequence[int | None]
"""One of each step: 1 right, 0 wrong, None without a mark."""
Rule = Callable[[Conversation, list[str], dict[str, Any]], Labels | None]
"""(prompt, steps, the row's other columns and its `anchors`) -> a label of each step; None where it cannot decide."""


@dataclass(frozen=True)
class Solution:
    """A response in steps, and what is known of it."""

    prompt: Conversation
    steps: list[str]
    """Texts of the steps, stripped."""
    row: dict[str, Any]
    """Further columns of the prompt's row, and its `anchors`."""
    reward: float
    """Reward of the response, before shaping."""


def begins_answer(prompt: Conversation, steps: list[str], row: dict[str, Any]) -> list[int] | None:
    """Mark a step as right where the text up to its end begins the right answer, with nothing between steps.

    The last step is right where the whole text is the answer: one that ends too early is wrong at its end. The answer
    is the column `answer`, or the first anchor of a row without it; None for a row that has neither.
    """
    answers = [row["answer"]] if row.get("answer") is not None else list(row.get("anchors", ()))
    if not answers:
        return None
    answer, texts = str(answers[0]).strip(), list(accumulate(steps))
    return [int(answer.startswith(text)) for text in texts[:-1]] + [int(text == answer) for text in texts[-1:]]


class StepMarks(PerTokenSource):
    """Marks each step of a response as right or wrong: `Scores.step_marks`, which some advantage estimators read.

    A step ends with its separator, or several in a row (`prl.data.steps.StepFinder`). Steps are those of the whole
    response, thoughts in front of an answer included, whatever `judge_thoughts` says; the reward of the response is
    that of the other source. A response whose marks cannot be had has none, never a substitute: it is counted in
    `rewards/steps_unmarked/mean`, the share of such responses. `rewards/steps_right/mean` is the share of right steps.

    Args:
        reward: source of the reward of each response.
        separator: text that ends a step, a blank line by default; every token is a step when null.

    Raises:
        ValueError: for an empty separator.
    """

    marks_steps = True

    def __init__(self, reward: RewardSource, separator: str | None = "\n\n") -> None:
        super().__init__(reward)
        if separator == "":
            raise ValueError(
                f"{type(self).__name__}.separator is empty; expected the text that ends a step, or null for every token"
            )
        self.separator = separator
        if self.component_names is not None:
            self.component_names += ("steps_right", "steps_unmarked")
        self._finder: StepFinder | None = None
        self._failure: str | None = None

    def attach_tokenizer(self, tokenizer: Any, length: int) -> None:
        """Keep the policy's tokenizer."""
        super().attach_tokenizer(tokenizer, length)
        self._finder = None if self.separator is None else StepFinder(tokenizer, self.separator)

    @abstractmethod
    def mark(self, solutions: list[Solution]) -> list[Labels | None]:
        """Label each step of each solution; None for a solution whose labels cannot be had, told by `fail`."""

    def fail(self, reason: str) -> None:
        """Keep the reason why a response has no marks."""
        self._failure = reason

    def failure(self) -> str | None:
        """Return the reasons of the last failed reward and of the last response without marks."""
        return "; ".join(filter(None, (super().failure(), self._failure))) or None

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by the other source, and mark the steps of those that have a reward."""
        scores = self.reward.score(rollout)
        split = [self._split(rollout, row) for row in range(len(rollout))]
        extras = rollout.batch.extras or [{}] * len(rollout)
        rewards = scores.rewards.tolist()
        rows = [row for row, failed in enumerate(scores.failed.tolist()) if not failed]
        solutions = [
            Solution(
                rollout.batch.prompts[row],
                split[row][1],
                {"anchors": list(rollout.batch.anchors[row]), **extras[row]},
                rewards[row],
            )
            for row in rows
        ]
        labels = self.mark(solutions)
        marks = torch.full(rollout.response_ids.shape, torch.nan)
        right, unmarked = torch.full((2, len(rollout)), torch.nan)
        for row, found in zip(rows, labels, strict=True):
            unmarked[row] = float(found is None)
            if found is not None:
                each = torch.tensor([torch.nan if label is None else float(label) for label in found])
                own = rollout.response_mask[row]
                marks[row, own.cpu()] = each[split[row][0]][own[rollout.read_mask[row]].cpu()]
                right[row] = each.nanmean()
        if missing := sum(found is None for found in labels):
            log.warning("%d of %d responses have no marks of steps; the last: %s", missing, len(rows), self._failure)
        parts = {**scores.components, "steps_right": right, "steps_unmarked": unmarked}
        return replace(scores, components=parts, step_marks=marks.to(rollout.response_ids.device))

    def _split(self, rollout: Rollout, row: int) -> tuple[list[int], list[str]]:
        """Return the step of each token of a response, from 0, and the texts of its steps.

        Tokens that the policy did not make, such as a prefix that it went on from, belong to steps and have no mark.
        """
        ids = rollout.response_ids[row][rollout.read_mask[row]].tolist()
        numbers = self._numbers(ids)
        of_step: list[list[int]] = [[] for _ in range(max(numbers, default=-1) + 1)]
        for token, number in zip(ids, numbers, strict=True):
            of_step[number].append(token)
        return numbers, [str(self.tokenizer.decode(each, skip_special_tokens=True)).strip() for each in of_step]

    def _numbers(self, ids: list[int]) -> list[int]:
        if self._finder is not None:
            return self._finder.numbers(ids)
        shown = (bool(self.tokenizer.decode([token], skip_special_tokens=True)) for token in ids)
        return [max(count - 1, 0) for count in accumulate(map(int, shown))]  # what ends a response is in its last step


class RuleMarks(StepMarks):
    """Mark the steps of each response by a rule, such as a verifier of derivations.

    A response has no marks where the rule raises or returns None, or anything but a label for each step.

    Args:
        reward: source of the reward of each response.
        rule: function of the prompt, the texts of the steps and the row's other columns with its `anchors`; it returns
            1 or 0 for each step, or None. In YAML by its import path: `mypackage.checks.marks`.
        separator: text that ends a step, a blank line by default; every token is a step when null.
    """

    def __init__(self, reward: RewardSource, rule: Rule = begins_answer, separator: str | None = "\n\n") -> None:
        super().__init__(reward, separator)
        self.rule = rule

    def mark(self, solutions: list[Solution]) -> list[Labels | None]:
        """Ask the rule about each solution."""
        return [self._mark(each) for each in solutions]

    def _mark(self, solution: Solution) -> Labels | None:
        name = getattr(self.rule, "__name__", type(self.rule).__name__)
        try:
            found = self.rule(solution.prompt, list(solution.steps), solution.row)
            given = None if found is None else list(found)
        except Exception as error:  # a rule is user code: one bad response must not end the run
            self.fail(f"{name} raised {type(error).__name__}: {error}")
            return None
        if given is None or len(given) != len(solution.steps) or not all(each in (0, 1, None) for each in given):
            self.fail(f"{name} returned {str(found)[:200]} for {len(solution.steps)} steps; expected 0 or 1 for each")
            return None
        return [None if each is None else int(each) for each in given]
