"""Reward of a policy that is its own referee, beside rules and rankings of the data: URPO (2507.17515)."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from prl.checkpoints.random_states import forked
from prl.data.encoding import encode_prompt
from prl.data.rows.row_errors import RowError, shown
from prl.data.thoughts import opens_thoughts, without_thoughts
from prl.data.tokens import left_pad
from prl.distributed import gathered, rank
from prl.judge.referee_prompt import (
    INSTRUCTION,
    SCALE,
    check_scale,
    kendall_tau,
    read_scores,
    referee_prompt,
    shown_order,
)
from prl.rewards.base import RewardSource, scores_from_values
from prl.rewards.rule import Rule, RuleReward, exact_match
from prl.rollouts.base import PolicyHandle
from prl.types import Conversation, PromptBatch, Rollout, Scores

Kind = Literal["verifiable", "ranking", "open"]
KINDS: tuple[Kind, ...] = ("verifiable", "ranking", "open")


class SelfReferee(RewardSource):
    """Reward one policy as player and as referee, by the kind of each row of the prompts: URPO (2507.17515).

    - A row with the column `answer` is verifiable: the reward is the number of a rule.
    - A row with the column `gold_scores` asks for a score of each of N responses (`prl referee` writes such rows from
      preference data). The reward is Kendall's tau of the scores that the policy writes with those of the column: from
      -1 to 1, a tied pair counts 0.
    - Any other row is an open instruction. The policy as it is in this iteration writes a score for each response to
      the prompt, by the same question; nothing is learnt from these answers. The rewards are the scores on a scale from
      0 to 1. Equal responses are shown once, and the order is drawn by the texts.

    All three share the advantages of their group: batches of one kind are stock GRPO with that reward, to the bit.
    A response to an open instruction has no reward where the answer of the referee cannot be read, or its question is
    longer than `max_prompt_length` of the run: the response is not to blame, and is left out and counted. In a
    validation, where a prompt has one response, the referee scores it beside its anchors.

    The referee samples in the process that trains, with the run's temperature and `max_new_tokens`, from random numbers
    that follow from what it reads, so that a resumed run and a validation repeat it. Where weights lie in shards, all
    processes sample together.

    The three kinds are of the paper's abstract. Its text was not at hand: Kendall's tau and the warm-up follow a
    summary, and the reward of what cannot be read, the question, the scale, and that equal responses are shown once are
    choices of this implementation.

    Args:
        rule: rewards responses of verifiable rows; function, in YAML by its import path.
        verifiable: column that makes a row verifiable; `exact_match` reads the column `answer`, whatever this one is.
        gold_scores: column that makes a row a ranking: N scores, the higher the better, in the order shown.
        warmup: iterations at the beginning in which open instructions are left out, so that the referee learns first.
        unreadable: reward of an answer to a ranking that cannot be read; -1 makes it as bad as the contrary order.
        instruction: what scores are to mean, as `prl referee --instruction` has it.
        scale: lowest and highest score, as `prl referee --scale` has it.

    Raises:
        ValueError: for the same column twice, a warm-up below 0, or a scale or reward that is none.
    """

    needs_anchors = False
    min_per_prompt = 2
    component_names = (*KINDS, "unreadable")

    def __init__(
        self,
        rule: Rule = exact_match,
        verifiable: str = "answer",
        gold_scores: str = "gold_scores",
        warmup: int = 0,
        unreadable: float = 0.0,
        instruction: str = INSTRUCTION,
        scale: tuple[float, float] = SCALE,
    ) -> None:
        super().__init__()
        if verifiable == gold_scores:
            raise ValueError(
                f"SelfReferee.verifiable and gold_scores are both {gold_scores!r}; they tell kinds of rows apart"
            )
        if warmup < 0:
            raise ValueError(f"SelfReferee.warmup is {warmup}; expected iterations, at least 0")
        if not -1 <= unreadable <= 1:
            raise ValueError(f"SelfReferee.unreadable is {unreadable}; expected a number from -1 to 1")
        self.scale = check_scale("SelfReferee.scale", scale)
        self.verifier, self.columns = RuleReward(rule), (verifiable, gold_scores)
        self.verifiable, self.gold_scores, self.instruction = verifiable, gold_scores, instruction
        self.warmup, self.unreadable = warmup, unreadable
        self._policy: PolicyHandle | None = None
        self._failure: str | None = None

    # ---- rows

    def kind_of(self, row: dict[str, Any]) -> Kind:
        """Tell the kind of a row by its columns; an empty cell counts as absent."""
        if row.get(self.gold_scores) is not None:
            return "ranking"
        return "open" if row.get(self.verifiable) is None else "verifiable"

    def check_row(self, row: dict[str, Any]) -> None:
        """Refuse a row of two kinds, or gold scores that rank nothing. Raises RowError."""
        if (gold := row.get(self.gold_scores)) is None:
            return
        if row.get(self.verifiable) is not None:
            raise RowError(
                "two kinds of row",
                self.verifiable,
                f"{shown(row[self.verifiable])} beside {self.gold_scores}",
                expected=f"one of {self.verifiable} and {self.gold_scores}, which tell a rule and a ranking apart",
                fix="Leave one of them empty.",
            )
        numbers = gold if isinstance(gold, list) else []
        if not all(type(each) in (int, float) and abs(each) < float("inf") for each in numbers) or len({*numbers}) < 2:
            raise RowError(
                "no ranking",
                self.gold_scores,
                shown(gold),
                expected="a list of finite numbers, one for each response in the order shown, not all of them equal",
                fix="Write such rows with `prl referee`.",
            )

    # ---- the referee

    def attach_handle(self, policy: PolicyHandle) -> None:
        """Have this policy score responses to open instructions."""
        self._policy = policy

    def failure(self) -> str | None:
        """Return the last reason why a response has no reward."""
        return self._failure or self.verifier.failure()

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by the kind of its row; every process must call it."""
        batch, device = rollout.batch, rollout.response_ids.device
        extras = batch.extras or [{}] * len(batch)
        kinds = [self.kind_of(row) for row in extras]
        in_groups = len(batch.group.unique()) < len(batch)  # a validation has one response to a prompt
        if in_groups:
            # Whether there are comparisons has to be the same on all processes, and rows may lack anchors.
            rollout = rollout.anchored([()] * len(batch))
        waits = in_groups and self._policy is not None and self._policy.version < self.warmup
        asked = [row for row, kind in enumerate(kinds) if kind == "open" and not waits]
        opinions = self._opinions(rollout, asked)
        unread = torch.full((len(batch),), torch.nan, device=device)

        def value(row: int, text: str) -> float:
            if kinds[row] == "verifiable":
                return self.verifier.value(batch.prompts[row], text, extras[row])
            if kinds[row] == "open":
                return opinions.get((int(batch.group[row]), text), torch.nan)
            gold = extras[row][self.gold_scores]
            scores = read_scores(text, len(gold), self.scale)
            return self.unreadable if scores is None else kendall_tau(gold, scores)

        def values_of(rows: list[int], texts: list[str]) -> Tensor:
            return torch.tensor([value(*each) for each in zip(rows, texts, strict=True)], device=device)

        scores = scores_from_values(rollout, values_of)
        for row, kind in enumerate(kinds):
            if kind == "ranking":
                unread[row] = read_scores(rollout.texts[row], len(extras[row][self.gold_scores]), self.scale) is None
        for row in asked:
            unread[row] = scores.rewards[row].isnan()
        of_kind: dict[str, Tensor] = {
            name: scores.rewards.where(torch.tensor([kind == name for kind in kinds], device=device), torch.nan)
            for name in KINDS
        }
        left_out = torch.tensor([waits and kind == "open" for kind in kinds], device=device)
        return replace(scores, components={**of_kind, "unreadable": unread}, left_out=left_out)

    def _opinions(self, rollout: Rollout, rows: Sequence[int]) -> dict[tuple[int, str], float]:
        """Have the policy score the responses of some rows: (number of the prompt, text) -> score from 0 to 1.

        A prompt is missing where the referee could not be asked or read.
        """
        if not any(gathered(bool(rows))):
            return {}
        if (policy := self._policy) is None:
            raise ValueError(
                "SelfReferee has open instructions to score and no policy in training; it works as the reward of "
                "PairwisePPOModule alone, whose policy is the referee"
            )
        questions = self._questions(rollout, rows, policy)
        batch = _batch([ids for _, _, ids in questions], rollout.batch, policy.tokenizer)
        asked = zlib.crc32(json.dumps([rank(), [ids for _, _, ids in questions]]).encode())
        with forked(seed=asked):
            answers = policy.generate(batch).texts[: len(questions)]
        opens, (lowest, highest) = opens_thoughts(policy.tokenizer), self.scale
        found: dict[tuple[int, str], float] = {}
        for (group, texts, _), answer in zip(questions, answers, strict=True):
            scores = read_scores(without_thoughts(answer, opened=opens), len(texts), self.scale)
            if scores is None:
                self._failure = (
                    f"the referee was to write {len(texts)} numbers from {lowest:g} to {highest:g}, and wrote "
                    f"{answer[-60:]!r}; train it on more rankings first, or raise SelfReferee.warmup"
                )
                continue
            of_scale = [(score - lowest) / (highest - lowest) for score in scores]
            found |= {(group, text): score for text, score in zip(texts, of_scale, strict=True)}
        return found

    def _questions(
        self, rollout: Rollout, rows: Sequence[int], policy: PolicyHandle
    ) -> list[tuple[int, list[str], list[int]]]:
        """List the number of each prompt, the texts to score in the order shown, and the question's ids."""
        batch = rollout.batch
        texts_of: dict[int, dict[str, None]] = {}
        prompt_of: dict[int, Conversation] = {}
        for row in rows:
            group = int(batch.group[row])
            prompt_of[group] = batch.prompts[row]
            texts_of.setdefault(group, {}).update(
                dict.fromkeys([rollout.texts[row].strip(), *batch.anchors[row]])  # a dict keeps each text once
            )
        questions = []
        for group, distinct in texts_of.items():
            texts, prompt = list(distinct), prompt_of[group]
            texts = [texts[number] for number in shown_order(prompt, texts)]
            ids = encode_prompt(policy.tokenizer, referee_prompt(prompt, texts, self.instruction, self.scale))
            if len(ids) <= policy.max_prompt_length:
                questions.append((group, texts, ids))
            else:
                self._failure = (
                    f"asking the referee takes {len(ids)} tokens for {len(texts)} responses, max_prompt_length is "
                    f"{policy.max_prompt_length}; raise it, or lower sampling.max_new_tokens or per_prompt"
                )
        return questions


def _batch(questions: list[list[int]], rollout: PromptBatch, tokenizer: Any) -> PromptBatch:
    """Make questions a batch; without any the first prompt again, because all processes sample equally often."""
    if not questions:
        return rollout.select(torch.tensor([0], device=rollout.prompt_ids.device))
    ids, mask = left_pad(questions, int(tokenizer.pad_token_id))
    nothing: list[Any] = [()] * len(questions)
    return PromptBatch(ids, mask, nothing, nothing).to(rollout.prompt_ids.device)
