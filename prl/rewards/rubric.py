"""Rewards by the rubric of each prompt: criteria that are graded one by one, with or without a model."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prl.data.rows.criteria import Criterion, read_criteria
from prl.data.rows.row_errors import RowError
from prl.rewards.base import RewardSource, scores_from_values
from prl.types import Conversation, Critique, Rollout, Scores

CriterionRule = Callable[[Conversation, str, str, dict[str, Any]], bool | None]
"""(prompt, response, criterion, the row's other columns) -> whether it holds; None where the rule cannot decide."""


class Question(NamedTuple):
    """A response whose criteria are to be graded."""

    prompt: Conversation
    response: str
    criteria: tuple[Criterion, ...]
    row: dict[str, Any]
    """Further columns of the prompt's row."""


class Graded(NamedTuple):
    """What the grades of a response amount to; NaN where a grade is missing, or no criterion is of the kind."""

    reward: float
    rubric: float
    """Share of all criteria that hold, by weight."""
    factual: float
    """Share of the factual criteria."""
    other: float
    """Share of the others."""


def weigh(criteria: Sequence[Criterion], grades: Sequence[float]) -> Graded:
    """Compute R = sum_k w_k s_k / sum_k w_k, and the reward: 1 where all factual criteria hold (one at least), else R.

    Args:
        criteria: of the prompt.
        grades: s_k, 1 for each criterion that holds and 0 for another; NaN for one without a grade.
    """
    if any(map(math.isnan, grades)):
        return Graded(*[math.nan] * 4)

    def share(kinds: tuple[bool, ...]) -> float:
        counted = [(each.weight, grade) for each, grade in zip(criteria, grades, strict=True) if each.factual in kinds]
        total = sum(weight for weight, _ in counted)
        return sum(weight * grade for weight, grade in counted) / total if counted else math.nan

    rubric, factual, other = share((True, False)), share((True,)), share((False,))
    facts = [grade for each, grade in zip(criteria, grades, strict=True) if each.factual]
    return Graded(1.0 if facts and all(facts) else rubric, rubric, factual, other)


class Rubric(RewardSource):
    """Reward each response by the criteria of its prompt (RGR-GRPO, 2511.12344); classes say who grades.

    The reward is 1 where all factual criteria hold and there is one, else R = sum_k w_k s_k / sum_k w_k, with s_k 1 for
    each criterion that holds and 0 otherwise. A response without a grade for each of its criteria has no reward. R and
    the shares of factual and of other criteria are logged. Where every row has anchors, comparisons of rewards say who
    beats them. Formula as in a summary of the paper; what is not found there is our choice: without a factual
    criterion R is the reward, and a response with a missing grade is left out whole.

    Args:
        column: column of the prompts with their criteria, a list of {criterion, weight, factual}.
    """

    needs_anchors = False
    gives_critique = True

    def __init__(self, column: str = "rubric") -> None:
        super().__init__()
        self.column, self.columns = column, (column,)
        self._failure: str | None = None
        self._known: dict[str, list[float]] = {}

    def check_row(self, row: dict[str, Any]) -> None:
        """Refuse a row whose criteria cannot be read. Raises RowError."""
        read_criteria(row, self.column)

    @abstractmethod
    def grade(self, questions: list[Question]) -> list[list[float]]:
        """Grade all criteria of each response: N lists of 1, 0, or NaN where a criterion cannot be graded."""

    def failure(self) -> str | None:
        """Return why the last criterion without a grade has none."""
        return self._failure

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response, and say what share of its criteria hold."""
        said: list[list[Graded]] = []

        def values_of(rows: list[int], texts: list[str]) -> Tensor:
            said.append([graded for graded, _ in self._graded(rollout, rows, texts)])
            return torch.tensor([each.reward for each in said[-1]], device=rollout.response_ids.device)

        scores = scores_from_values(rollout, values_of)  # which asks for the responses first
        self._known = {}  # a reward must not depend on what was graded in another step
        kinds = ("rubric", "factual", "other")
        parts = {kind: torch.tensor([getattr(each, kind) for each in said[0]]).to(scores.rewards) for kind in kinds}
        return replace(scores, components=parts)

    def critique(self, rollout: Rollout) -> list[Critique]:
        """Tell which criteria of each response do not hold; the next `score` does not ask for these grades again."""
        texts = [text.strip() for text in rollout.texts]
        found = self._graded(rollout, list(range(len(rollout))), texts, keep=True)
        graded = zip(texts, found, strict=True)
        return [Critique(text, each.reward, each.rubric, tuple(failed)) for text, (each, failed) in graded]

    def _graded(
        self, rollout: Rollout, rows: list[int], texts: list[str], *, keep: bool = False
    ) -> list[tuple[Graded, list[str]]]:
        """Grade texts, each with its row of the rollout, equal ones once; also list the criteria that do not hold."""
        batch, keys = rollout.batch, list[str]()
        questions: dict[str, Question] = {}
        for row, text in zip(rows, texts, strict=True):
            extra = batch.extras[row] if batch.extras else {}
            keys.append(json.dumps([batch.prompts[row], text, extra], sort_keys=True, default=str))
            if keys[-1] not in questions and (criteria := self._criteria(extra)) is not None:
                questions[keys[-1]] = Question(batch.prompts[row], text, criteria, extra)
        new = {key: each for key, each in questions.items() if key not in self._known}
        grades = dict(zip(new, self.grade(list(new.values())), strict=True)) if new else {}
        grades = {key: grades.get(key) or self._known[key] for key in questions}
        if keep:  # without those that failed, which are asked for again
            self._known = {key: each for key, each in grades.items() if not any(map(math.isnan, each))}
        found = {key: _told(questions[key].criteria, each) for key, each in grades.items()}
        return [found.get(key, (Graded(*[math.nan] * 4), [])) for key in keys]

    def _criteria(self, row: Mapping[str, Any]) -> tuple[Criterion, ...] | None:
        """Read the criteria of a row; None, with the reason kept, where it has none, as outside of a run."""
        try:
            return read_criteria(row, self.column)
        except RowError as error:
            self._failure = str(error)
            return None


def _told(criteria: Sequence[Criterion], grades: Sequence[float]) -> tuple[Graded, list[str]]:
    return weigh(criteria, grades), [each.text for each, grade in zip(criteria, grades, strict=True) if grade == 0]


class RuleRubric(Rubric):
    """Rubric whose criteria are graded by a rule: for what code can verify.

    A criterion has no grade where the rule raises, or returns anything but True and False; the response then has no
    reward.

    Args:
        rule: function of prompt, response, criterion and row, in YAML by its import path: `mypackage.checks.holds`.
        column: column of the prompts with their criteria, a list of {criterion, weight, factual}.
    """

    def __init__(self, rule: CriterionRule, column: str = "rubric") -> None:
        super().__init__(column)
        self.rule = rule

    def grade(self, questions: list[Question]) -> list[list[float]]:
        """Ask the rule about each criterion."""
        return [[self._grade(question, each.text) for each in question.criteria] for question in questions]

    def _grade(self, question: Question, criterion: str) -> float:
        name = getattr(self.rule, "__name__", type(self.rule).__name__)
        try:
            found = self.rule(question.prompt, question.response, criterion, question.row)
        except Exception as error:  # a rule is user code: one bad response must not end the run
            self._failure = f"{name} raised {type(error).__name__}: {error}"
            return math.nan
        if isinstance(found, bool):
            return float(found)
        self._failure = (
            f"{name} returned {found!r:.60} for the criterion {criterion[:60]!r} of the response "
            f"{question.response[:60]!r}; expected True or False"
        )
        return math.nan
