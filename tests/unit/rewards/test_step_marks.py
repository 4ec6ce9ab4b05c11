"""Marks of steps: which tokens are in which, what a rule may say, and what is counted where it says nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_modules import PairwisePPOModule
from prl.advantages import ThoughtLevel
from prl.config import ModelSource, Sampling
from prl.rewards import EnvironmentReward, RuleMarks, RuleReward, RuleRubric, TokenGuide
from prl.rewards.base import RewardSource
from prl.rewards.step_marks import begins_answer
from prl.types import PromptBatch, Rollout
from tests.helpers.tiny import tiny_tokenizer, write_tiny_model

NAN = float("nan")
TOKENIZER = tiny_tokenizer()


def length(prompt: Any, response: str, row: dict[str, Any]) -> float:
    return NAN if response == "bad" else float(len(response))


def rollout(texts: list[str], extras: list[dict[str, Any]] | None = None) -> Rollout:
    """Responses that end with the token that ends one."""
    rows = [[*TOKENIZER.encode(text, add_special_tokens=False), int(TOKENIZER.eos_token_id)] for text in texts]
    width = max(map(len, rows))
    mask = torch.tensor([[n < len(row) for n in range(width)] for row in rows])
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    prompt = torch.ones(len(rows), 1, dtype=torch.long)
    turns = [({"role": "user", "content": f"prompt {n}"},) for n in range(len(rows))]
    batch = PromptBatch(prompt, prompt.bool(), turns, [("abc", "no")] * len(rows), extras or [])
    return Rollout(batch, ids, mask, torch.ones(len(rows), dtype=torch.bool), texts, width)


def marked(texts: list[str], rule: Any, separator: str | None = "\n\n", **more: Any) -> Any:
    source = RuleMarks(RuleReward(length), rule, separator)
    source.attach_tokenizer(TOKENIZER, 64)
    source.load()
    return source.score(rollout(texts, **more)), source


def test_tokens_have_the_mark_of_their_step_and_the_end_that_of_the_last() -> None:
    seen = []

    def first_alone(prompt: Any, steps: list[str], row: dict[str, Any]) -> list[int]:
        seen.append((prompt[0]["content"], steps, row))
        return [1] + [0] * (len(steps) - 1)

    rows = [{"answer": "x"}, {"answer": "y"}]
    found, _ = marked(["ab\n\nc\n\n\n\nd", "e"], first_alone, extras=rows)
    assert seen == [
        ("prompt 0", ["ab", "c", "d"], {"anchors": ["abc", "no"], "answer": "x"}),
        ("prompt 1", ["e"], {"anchors": ["abc", "no"], "answer": "y"}),
    ]
    assert found.step_marks[0].tolist() == [1.0] * 4 + [0.0] * 7
    assert found.step_marks[1, :2].tolist() == [1.0, 1.0]
    assert found.step_marks[1, 2:].isnan().all()
    assert found.rewards.tolist() == [10.0, 1.0]
    assert found.components["steps_right"].tolist() == pytest.approx([1 / 3, 1.0])
    assert found.components["steps_unmarked"].tolist() == [0.0, 0.0]


def test_every_token_is_a_step_without_a_separator() -> None:
    found, _ = marked(["abd", ""], begins_answer, None)
    assert found.step_marks[0].tolist() == [1.0, 1.0, 0.0, 0.0]  # what ends a response is in its last step
    assert found.step_marks[1, 0] == 0.0  # an end where the answer has not begun
    assert found.components["steps_right"].tolist() == pytest.approx([2 / 3, 0.0])


def test_the_answer_is_a_column_or_else_the_first_anchor() -> None:
    assert begins_answer((), ["a", "b", "x"], {"anchors": ["abc", "x"]}) == [1, 1, 0]
    assert begins_answer((), ["a", "b"], {"answer": "ba", "anchors": ["ab"]}) == [0, 0]
    assert begins_answer((), ["4", "2"], {"answer": 42}) == [1, 1]
    assert begins_answer((), ["a"], {"anchors": []}) is None


def test_a_text_that_ends_before_the_answer_does_is_wrong_at_its_end() -> None:
    assert begins_answer((), ["a", "b"], {"answer": "abc"}) == [1, 0]
    assert begins_answer((), ["a", "b", "c"], {"answer": "abc"}) == [1, 1, 1]
    assert begins_answer((), [""], {"answer": "abc"}) == [0]
    assert begins_answer((), [], {"answer": "abc"}) == []


def odd(prompt: Any, steps: list[str], row: dict[str, Any]) -> Any:
    """Answers by the first step."""
    if steps[0] == "raise":
        raise KeyError("nothing")
    return {"none": None, "short": [1], "two": [2, 0], "word": "xy", "some": [1, None], "bool": [True, False]}[steps[0]]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("raise", "odd raised KeyError: 'nothing'"),
        ("none", "odd returned None for 2 steps; expected 0 or 1 for each"),
        ("short", r"odd returned [1] for 2 steps"),
        ("two", r"odd returned [2, 0] for 2 steps"),
        ("word", "odd returned xy for 2 steps; expected 0 or 1"),
    ],
)
def test_what_is_no_mark_is_counted_and_told(first: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    found, source = marked([f"{first}\n\nb", "bool\n\nb"], odd)
    assert found.step_marks[0].isnan().all()
    assert not found.step_marks[1, : len("bool\n\nb") + 1].isnan().any()
    assert found.components["steps_unmarked"].tolist() == [1.0, 0.0]
    assert found.components["steps_right"][0].isnan()
    assert found.components["steps_right"][1] == 0.5
    assert found.rewards.tolist() == [float(len(first) + 3), 7.0]  # the reward stays
    assert reason in str(source.failure())
    assert "1 of 2 responses have no marks of steps" in caplog.text


def test_a_step_may_have_no_mark_and_a_response_without_a_reward_is_not_asked_about() -> None:
    found, source = marked(["some\n\nb", "bad"], odd)
    assert found.step_marks[0, :6].tolist() == [1.0] * 6
    assert found.step_marks[0, 6:].isnan().all()
    assert found.step_marks[1].isnan().all()
    assert found.components["steps_unmarked"].tolist()[0] == 0.0
    assert found.components["steps_unmarked"][1].isnan()
    assert "length returned nan" in str(source.failure())


def test_tokens_between_those_of_the_policy_have_no_mark() -> None:
    source = RuleMarks(RuleReward(length), lambda prompt, steps, row: [1] * len(steps))
    source.attach_tokenizer(TOKENIZER, 64)
    rows = rollout(["abcd"])
    rows.response_mask[0, 1] = False
    found = source.score(rows).step_marks
    assert found is not None
    assert found[0].isnan().tolist() == [False, True, False, False, False]


def test_a_prefix_of_others_belongs_to_the_steps_and_has_no_mark() -> None:
    seen = []

    def rule(prompt: Any, steps: list[str], row: dict[str, Any]) -> list[int]:
        seen.append(steps)
        return [number % 2 for number in range(len(steps))]

    source = RuleMarks(RuleReward(length), rule, None)
    source.attach_tokenizer(TOKENIZER, 64)
    rows = rollout(["abcd"])
    own = rows.response_mask.clone()
    own[0, :2] = False
    found = source.score(replace(rows, response_mask=own, context_mask=rows.response_mask)).step_marks
    assert seen == [["a", "b", "c", "d"]]
    assert found is not None
    assert found[0, :2].isnan().all()
    assert found[0, 2:].tolist() == [0.0, 1.0, 1.0]  # of the third and the fourth step, and of the end


def test_shares_are_no_marks() -> None:
    found, source = marked(["abc"], lambda prompt, steps, row: [0.9] * len(steps))
    assert found.step_marks.isnan().all()
    assert "returned [0.9]" in str(source.failure())


def test_a_source_around_another_has_its_traits() -> None:
    source = RuleMarks(EnvironmentReward())
    assert (source.compares, source.needs_anchors, source.gives_critique) == (False, False, False)
    assert source.component_names == ("steps_right", "steps_unmarked")
    assert RuleMarks(RuleRubric(length)).gives_critique


def test_marks_go_along_with_scores() -> None:
    found, _ = marked(["ab"], begins_answer)
    assert torch.equal(found.to(torch.device("cpu")).with_rewards(torch.zeros(1)).step_marks, found.step_marks)


def module(reward: RewardSource, folder: str, **more: Any) -> PairwisePPOModule:
    policy, sampling = ModelSource(path=folder), Sampling(per_prompt=2)
    return PairwisePPOModule(policy, reward, sampling=sampling, max_prompt_length=64, critic=None, **more)


def test_an_estimator_that_reads_marks_needs_a_source_that_gives_them(tmp_path: Any) -> None:
    folder = str(write_tiny_model(tmp_path / "policy"))
    plain = RuleReward(length)
    with pytest.raises(
        ValueError, match=r"advantage: ThoughtLevel reads marks of steps.*reward: RuleReward gives none"
    ):
        module(plain, folder, advantage=ThoughtLevel())
    module(RuleMarks(plain), folder, advantage=ThoughtLevel())
    module(TokenGuide(RuleMarks(plain), folder, folder), folder, advantage=ThoughtLevel()).build_encoder()


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"RuleMarks\.separator is empty; expected the text that ends a step, or null"):
        RuleMarks(RuleReward(length), separator="")
