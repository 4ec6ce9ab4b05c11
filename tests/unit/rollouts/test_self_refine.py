"""The last response to a prompt, drawn from a refinement of the best of the others."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from lightning_modules import PairwisePPOModule
from prl.config import ModelSource, Sampling
from prl.data.encoding import encode_prompt
from prl.data.tokens import left_pad
from prl.rewards import RuleReward, RuleRubric
from prl.rewards.rubric import Question
from prl.rollouts import LocalSampler, PrefixReset, RolloutServer, Sampler, SelfRefine
from prl.rollouts.self_refine import find_best
from prl.types import Critique, PromptBatch, Rollout
from tests.helpers.tiny import LengthJudge, tiny_tokenizer

PROMPTS = ["reverse ab", "copy c", "sort dcab"]
CRITERIA = ["has a", "has\n b ", "has c"]
GROUP = 4
TOKENIZER = tiny_tokenizer()


def has(prompt: Any, response: str, criterion: str, row: Any) -> bool:
    return criterion.split()[-1] in response


def batch(per_prompt: int = GROUP, criteria: list[str] = CRITERIA) -> PromptBatch:
    turns = [({"role": "user", "content": text},) for text in PROMPTS]
    ids, mask = left_pad([encode_prompt(TOKENIZER, turn) for turn in turns], int(TOKENIZER.pad_token_id))
    rubric = [{"criterion": each, "weight": n, "factual": False} for n, each in enumerate(criteria, 1)]
    return PromptBatch(ids, mask, turns, [("anchor",)] * 3, [{"rubric": rubric}] * 3).repeat(per_prompt)


class Script(Sampler):
    """Answers each call with the next texts, and notes what it was asked; a text has as many tokens as characters."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), list[PromptBatch]()

    def sample(self, batch: PromptBatch, policy: Any) -> Rollout:
        self.asked.append(batch)
        texts = self.answers.pop(0)
        ids = [[*TOKENIZER.encode(text), int(TOKENIZER.eos_token_id)] for text in texts]
        width = max(map(len, ids))
        mask = torch.tensor([[n < len(row) for n in range(width)] for row in ids])
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        return Rollout(batch, padded, mask, torch.tensor([text != "aaaaaa" for text in texts]), texts, 9)


class Handle:
    """The policy as samplers see it, with a rubric for a reward."""

    def __init__(self, rule: Any = has) -> None:
        self.tokenizer, self.reward, self.calls = TOKENIZER, RuleRubric(rule), 0

    def critique(self, rollout: Rollout) -> list[Critique]:
        self.calls += 1
        return self.reward.critique(rollout)


FIRST = ["a", "ab", "c", "abc", "x", "y", "", "c", "b"]
"""Of the first prompt ab and c meet as much by weight, of the second abc meets all, of the third c is the best."""
LAST = ["abcabc", "b", "a b c"]


def sampled(*answers: list[str], rule: Any = has, **settings: Any) -> tuple[Rollout, Script, SelfRefine, Handle]:
    script, handle = Script(*(answers or (FIRST, LAST))), Handle(rule)
    sampler = SelfRefine(sampler=script, **settings)
    return sampler.sample(batch(), handle), script, sampler, handle  # type: ignore[arg-type]


def test_the_last_response_is_drawn_from_the_best_and_its_unmet_criteria() -> None:
    rollout, script, sampler, handle = sampled()
    first, drawn = script.asked
    assert (len(first), len(drawn), handle.calls) == (9, 3, 1)
    assert first.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    expected = [
        f"reverse ab\nab<eos>{sampler.instruction}\n- has c\n",
        "copy c\n",  # whose best meets all criteria
        f"sort dcab\nc<eos>{sampler.instruction}\n- has a\n- has b\n",
    ]
    asked = [TOKENIZER.decode(ids[mask]) for ids, mask in zip(drawn.prompt_ids, drawn.prompt_mask, strict=True)]
    assert asked == expected
    assert rollout.guided is not None
    assert rollout.guided.view(3, GROUP).tolist() == [[False] * 3 + [True], [False] * 4, [False] * 3 + [True]]
    assert sampler.numbers() == {
        "rollout/refined_frac": pytest.approx(2 / 3),
        "rollout/refinement_too_long_frac": 0.0,
    }


def test_the_rollout_stands_under_the_original_prompts_in_their_order() -> None:
    rollout, *_ = sampled()
    given = batch()
    assert torch.equal(rollout.prompt_ids, given.prompt_ids)
    assert torch.equal(rollout.group, given.group)
    assert rollout.batch.anchors == given.anchors
    assert rollout.texts == ["a", "ab", "c", "abcabc", "abc", "x", "y", "b", "", "c", "b", "a b c"]
    ids = [row[mask].tolist() for row, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    assert [TOKENIZER.decode(row) for row in ids] == [f"{text}<eos>" for text in rollout.texts]
    assert (rollout.response_ids[~rollout.response_mask] == TOKENIZER.pad_token_id).all()


def test_rows_of_a_selection_keep_what_is_guided() -> None:
    rollout, *_ = sampled()
    assert rollout.guided is not None
    rows = torch.tensor([11, 0, 3])
    assert rollout.select(rows).guided.tolist() == [True, False, True]  # type: ignore[union-attr]
    assert rollout.without(rollout.finished).guided is rollout.guided
    with pytest.raises(ValueError, match="guided"):
        replace(rollout, guided=rollout.guided[:3])


def test_validations_sample_plainly() -> None:
    script = Script(["a", "b", "c"])
    rollout = SelfRefine(sampler=script).sample(batch(1), Handle())  # type: ignore[arg-type]
    assert rollout.guided is None
    assert rollout.texts == ["a", "b", "c"]
    assert len(script.asked) == 1


def test_a_refinement_prompt_that_is_too_long_is_a_plain_draw_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    fits = len("sort dcab\nc\u0000GO\n- has a\n- has b\n")
    with caplog.at_level(logging.WARNING):
        rollout, script, sampler, _ = sampled(max_prompt_length=fits - 1, instruction="GO")
    assert rollout.guided is not None
    assert rollout.guided.nonzero()[:, 0].tolist() == [3]
    assert TOKENIZER.decode(script.asked[1].prompt_ids[2][script.asked[1].prompt_mask[2]]) == "sort dcab\n"
    assert sampler.numbers()["rollout/refinement_too_long_frac"] == pytest.approx(1 / 3)
    assert "1 of 3 refinement prompts are longer than sampler.max_prompt_length, " in caplog.text
    rollout, *_ = sampled(max_prompt_length=fits, instruction="GO")
    assert rollout.guided is not None
    assert rollout.guided.nonzero()[:, 0].tolist() == [3, 11]


def test_where_nothing_could_be_graded_the_last_response_is_drawn_from_the_prompt() -> None:
    rollout, script, _, _ = sampled(rule=lambda *_: None)
    assert rollout.guided is not None
    assert not rollout.guided.any()
    assert len(script.asked) == 2  # as on other processes


def test_the_best_has_the_highest_reward_then_the_highest_share_then_comes_first() -> None:
    def told(reward: float, share: float, name: str) -> Critique:
        return Critique(name, reward, share, ())

    nan = float("nan")
    assert find_best([told(nan, nan, "x"), told(0.2, 0.2, "y")]).response == "y"  # type: ignore[union-attr]
    assert find_best([told(0.9, 0.9, "x"), told(1.0, 0.5, "y"), told(1.0, 0.6, "z")]).response == "z"  # type: ignore[union-attr]
    assert find_best([told(0.5, 0.5, "x"), told(0.5, 0.5, "y")]).response == "x"  # type: ignore[union-attr]
    assert find_best([told(nan, nan, "x")]) is None


def test_what_a_text_says_cannot_end_its_turn() -> None:
    first = [*FIRST[:6], "", "c<eos>", "b"]
    _, script, sampler, _ = sampled(first, LAST)
    ids = script.asked[1].prompt_ids[2].tolist()
    assert ids.count(TOKENIZER.eos_token_id) == 1
    assert TOKENIZER.decode(ids).startswith("sort dcab\nc<eos><eos>" + sampler.instruction)


def test_a_paid_grader_is_not_asked_twice_in_an_iteration() -> None:
    asked: list[str] = []

    class Noting(RuleRubric):
        def grade(self, questions: list[Question]) -> list[list[float]]:
            asked.extend(question.response for question in questions)
            return super().grade(questions)

    handle = Handle()
    handle.reward = Noting(lambda prompt, response, *_: None if response == "x" else len(response) > 1)
    rollout = SelfRefine(sampler=Script(FIRST, LAST)).sample(batch(), handle)  # type: ignore[arg-type]
    plain = rollout.anchored([()] * len(rollout))
    asked.clear()
    found = handle.reward.score(plain)
    assert sorted(asked) == ["a b c", "abcabc", "b", "x"]  # the new ones, and one without a grade
    asked.clear()
    assert torch.equal(handle.reward.score(plain).rewards.nan_to_num(9), found.rewards.nan_to_num(9))
    assert len(asked) == 12  # nothing is kept for another step


def test_settings_and_runs_that_cannot_be_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="SelfRefine.instruction is ' '"):
        SelfRefine(instruction=" ")
    with pytest.raises(ValueError, match="SelfRefine.max_prompt_length is 0"):
        SelfRefine(max_prompt_length=0)
    for other in (PrefixReset(), SelfRefine()):
        with pytest.raises(ValueError, match=f"SelfRefine.sampler is {type(other).__name__}, which writes more"):
            SelfRefine(sampler=other)
    policy = ModelSource(path=str(tiny_folder))

    def module(reward: Any, per_prompt: int, **settings: Any) -> Any:
        sampler, sampling = SelfRefine(**settings), Sampling(per_prompt=per_prompt, max_new_tokens=12)
        return PairwisePPOModule(policy, reward, sampler=sampler, sampling=sampling, max_prompt_length=64)

    with pytest.raises(ValueError, match="sampler: SelfRefine needs at least 2 responses .*per_prompt is 1"):
        module(RuleRubric(has), 1)
    for reward in (RuleReward(), LengthJudge()):
        with pytest.raises(ValueError, match="SelfRefine asks what responses lack, and reward: .* cannot tell"):
            module(reward, 2)
    with pytest.raises(ValueError, match="512 positions, but SelfRefine.max_prompt_length plus sampling.max_new"):
        module(RuleRubric(has), 2, max_prompt_length=501).build_encoder()
    assert module(RuleRubric(has), 2, max_prompt_length=500).build_encoder().declared == ["rubric"]


def test_a_server_samples_for_it_as_well(tmp_path: Path) -> None:
    server = RolloutServer("http://127.0.0.1:9/v1", str(tmp_path))
    assert SelfRefine(sampler=server).takes_weights
    assert not SelfRefine().takes_weights
    assert isinstance(SelfRefine().sampler, LocalSampler)
    with pytest.raises(ValueError, match="holds no model"):
        SelfRefine(sampler=server).check(None, [])


def test_log_probabilities_are_those_under_the_original_prompt(tiny_folder: Path) -> None:
    module: Any = PairwisePPOModule(
        ModelSource(path=str(tiny_folder)),
        RuleRubric(has),
        sampler=SelfRefine(max_prompt_length=400),
        sampling=Sampling(max_new_tokens=8, per_prompt=GROUP),
    )
    module.configure_model()
    module.trainer = Trainer(accelerator="cpu", barebones=True)
    torch.manual_seed(0)
    rollout = module.generate(batch())
    assert rollout.guided.any()
    assert {"rollout", "judge"} <= module.meter.seconds.keys()
    found, _, _ = module.actors.score(rollout, [torch.arange(len(rollout))])
    row = int(rollout.guided.nonzero()[0])
    prompt, response = rollout.prompt_ids[row][rollout.prompt_mask[row]], rollout.response_ids[row]
    length = int(rollout.response_mask[row].sum())
    logits = module.policy(torch.cat([prompt, response[:length]])[None]).logits[0]
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, response[:length, None])[:, 0]
    torch.testing.assert_close(found[row, :length], logprobs, atol=1e-5, rtol=1e-5)
