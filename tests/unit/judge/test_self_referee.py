"""One policy as player and referee: what each kind of row is rewarded by, and who is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.advantages import GroupNormalized
from prl.data.encoding import PromptEncoder
from prl.data.rows.records import AnchoredPrompt
from prl.data.rows.row_errors import RowError
from prl.judge import SelfReferee
from prl.judge.referee_prompt import kendall_tau, read_scores
from prl.rewards import RuleReward, WeightedReward
from prl.types import PromptBatch, Rollout, Scores
from tests.helpers.groups import advantages
from tests.helpers.records import answered
from tests.helpers.tiny import tiny_tokenizer
from tests.helpers.two_processes import in_two_processes


class Policy:
    """A policy that answers what a function says, and keeps what it was asked."""

    def __init__(self, answer: Callable[[str], str] = lambda question: "10 1", version: int = 0) -> None:
        self.answer, self.version = answer, version
        self.tokenizer, self.max_prompt_length = tiny_tokenizer(), 400
        self.asked: list[list[str]] = []
        self.draws: list[float] = []

    def generate(self, batch: PromptBatch) -> Rollout:
        kept = [row[mask] for row, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
        self.asked.append([self.tokenizer.decode(ids) for ids in kept])
        self.draws.append(float(torch.rand(())))
        return answered(batch, [self.answer(text) for text in self.asked[-1]])


def rows(*extras: dict[str, Any], each: int = 2, anchors: tuple[str, ...] = ()) -> PromptBatch:
    ids = torch.ones(len(extras), 2, dtype=torch.long)
    turns = [({"role": "user", "content": f"task {number}"},) for number in range(len(extras))]
    return PromptBatch(ids, ids.bool(), turns, [anchors] * len(extras), list(extras)).repeat(each)


def referee(policy: Policy | None = None, **settings: Any) -> SelfReferee:
    found = SelfReferee(**settings)
    if policy is not None:
        found.attach_handle(policy)  # type: ignore[arg-type]
    return found


def texts_by_length(question: str) -> str:
    """Score the responses of a question by their length."""
    shown = [part.partition("\n")[2].partition("\n\n")[0] for part in question.split("# Response ")[1:]]
    return " ".join(str(1 + len(text)) for text in shown)


def of_kind(scores: Scores) -> dict[str, list[float | None]]:
    return {name: [None if x != x else x for x in values.tolist()] for name, values in scores.components.items()}


def test_each_kind_of_row_has_its_reward() -> None:
    policy = Policy(texts_by_length)
    batch = rows({"answer": "b", "gold_scores": None}, {"gold_scores": [4, 3, 2, 1]}, {"source": "web"})
    found = referee(policy).score(answered(batch, ["b", "c", "9 7 8 2", "none", "aa", " aaaa "]))
    assert found.rewards.tolist() == pytest.approx([1, 0, 2 / 3, 0, 2 / 9, 4 / 9], abs=1e-6)
    assert of_kind(found) == {
        "verifiable": [1, 0, None, None, None, None],
        "ranking": [None, None, pytest.approx(2 / 3), 0, None, None],
        "open": [None, None, None, None, pytest.approx(2 / 9), pytest.approx(4 / 9)],
        "unreadable": [None, None, 0, 1, 0, 0],
    }
    assert found.verdict is None
    ((question,),) = policy.asked  # one question for all responses to the prompt, and of the open row alone
    assert "task 2" in question
    assert {"aa", "aaaa"} == {part.split("\n")[1] for part in question.split("# Response ")[1:]}


def test_a_batch_of_one_kind_is_stock_grpo_with_that_reward() -> None:
    texts = ["b", "c", "b", "b", "9 1", "x", "3 4", "2 2"]

    def tau(prompt: Any, response: str, row: dict[str, Any]) -> float:
        scores = read_scores(response, 2)
        return 0.0 if scores is None else kendall_tau(row["gold_scores"], scores)

    def length(prompt: Any, response: str, row: dict[str, Any]) -> float:
        return len(response) / 9

    kinds: list[tuple[dict[str, Any], Any]] = [({"answer": "b"}, None), ({"gold_scores": [2, 1]}, tau), ({}, length)]
    for extra, rule in kinds:
        batch = rows(extra, extra, each=4)
        stock = RuleReward() if rule is None else RuleReward(rule)
        expected = stock.score(answered(batch, texts)).rewards
        found = referee(Policy(texts_by_length)).score(answered(batch, texts)).rewards
        assert torch.equal(found, expected)
        one, other = (advantages(GroupNormalized(), each.tolist(), 4) for each in (found, expected))
        assert torch.equal(one, other)


def test_what_the_referee_says_of_equal_responses_is_the_same() -> None:
    policy = Policy(texts_by_length)
    found = referee(policy).score(answered(rows({}, each=3), ["aa", "b", "aa "])).rewards
    assert found[0] == found[2] != found[1]
    assert policy.asked[0][0].count("# Response") == 2


@pytest.mark.parametrize("answer", ["10", "10 1 1", "ten one", "0 11", ""])
def test_responses_whose_referee_cannot_be_read_have_no_reward(answer: str) -> None:
    source = referee(Policy(lambda question: answer))
    found = source.score(answered(rows({}, {"answer": "b"}), ["a", "ab", "b", "c"]))
    assert found.failed.tolist() == [True, True, False, False]
    assert found.lost.tolist() == [True, True, False, False]
    assert found.components["unreadable"][:2].tolist() == [1, 1]
    assert "the referee was to write 2 numbers from 1 to 10" in str(source.failure())


def test_a_question_that_is_too_long_is_not_cut() -> None:
    policy = Policy()
    source = referee(policy)
    found = source.score(answered(rows({}, {}), ["a" * 300, "b" * 300, "c", "d"]))
    assert found.failed.tolist() == [True, True, False, False]
    assert [len(asked) for asked in policy.asked] == [1]
    assert "max_prompt_length is 400; raise it" in str(source.failure())
    policy.max_prompt_length = 10  # all of them; processes sample all the same
    assert source.score(answered(rows({}), ["c", "d"])).failed.all()
    assert len(policy.asked) == 2


def test_thoughts_of_the_referee_are_not_scores() -> None:
    source = referee(Policy(lambda question: "<think>\n1 1\n</think>\n10 1"))
    assert sorted(source.score(answered(rows({}), ["a", "b"])).rewards.tolist()) == [0, 1]
    source = referee(Policy(lambda question: "<think>\n10 1"))
    assert source.score(answered(rows({}), ["a", "b"])).failed.all()


def test_open_instructions_wait_for_the_warmup_and_are_no_failures() -> None:
    policy = Policy(version=1)
    source, texts = referee(policy, warmup=2), ["a", "b", "b", "c"]
    found = source.score(answered(rows({}, {"answer": "b"}), texts))
    assert found.failed.tolist() == [True, True, False, False]
    assert not found.lost.any()
    assert policy.asked == []
    nested = WeightedReward({"urpo": source}, {"urpo": 1.0}).score(answered(rows({}, {"answer": "b"}), texts))
    assert not nested.lost.any()
    policy.version = 2
    assert not source.score(answered(rows({}, {"answer": "b"}), texts)).failed.any()
    policy.version = 0  # a validation measures the referee from the beginning
    validated = source.score(answered(rows({}, each=1, anchors=("abc",)), ["a"]))
    assert not validated.failed.any()


def test_a_validation_scores_a_response_beside_its_anchors() -> None:
    policy = Policy(texts_by_length)
    batch = rows({}, {"answer": "b"}, {"gold_scores": [2, 1]}, each=1)
    rollout = answered(batch, ["aa", "c", "1 2"]).anchored([("abcd", "a"), ("b",), ("10 1",)])
    found = referee(policy).score(rollout)
    assert found.verdict is not None
    assert found.response_index is not None
    assert found.response_index.tolist() == [0, 0, 1, 2]
    assert found.verdict.win_logit.tolist() == pytest.approx([-2 / 9, 1 / 9, -1, -2])
    # in training anchors are not shown, and nothing is compared with them
    trained = referee(policy).score(answered(rows({}, anchors=("abcd",)), ["a", "aa"]))
    assert trained.verdict is None
    assert "abcd" not in policy.asked[-1][0]


def test_the_referee_draws_from_what_it_reads_and_moves_no_other_draw() -> None:
    policy = Policy()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for texts in (["a", "b"], ["a", "b"], ["a", "c"]):
        referee(policy).score(answered(rows({}), texts))
    assert torch.equal(torch.get_rng_state(), before)
    assert policy.draws[0] == policy.draws[1] != policy.draws[2]


def test_settings_of_the_referee() -> None:
    policy = Policy(lambda question: "0 2")

    def same(prompt: Any, response: str, row: dict[str, Any]) -> float:
        return float(response == row["a"])

    names = {"rule": same, "verifiable": "a", "gold_scores": "g"}
    source = referee(policy, instruction="Be strict.", scale=(0.0, 2.0), unreadable=-1.0, **names)
    found = source.score(answered(rows({"a": "b"}, {"g": [1, 2]}, {}), ["b", "c", "0 1", "1 3", "x", "y"]))
    assert found.rewards[:4].tolist() == [1, 0, 1, -1]
    assert sorted(found.rewards[4:].tolist()) == [0, 1]
    assert policy.asked[0][0].startswith("Be strict.")
    assert source.min_per_prompt == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verifiable": "gold_scores"}, "both 'gold_scores'; they tell kinds"),
        ({"warmup": -1}, "SelfReferee.warmup is -1"),
        ({"unreadable": float("nan")}, "SelfReferee.unreadable is nan"),
        ({"unreadable": -1.5}, "SelfReferee.unreadable is -1.5"),
        ({"scale": (1.0, 1.0)}, "SelfReferee.scale is"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfReferee(**settings)


def test_without_a_policy_there_is_no_referee() -> None:
    assert not SelfReferee().score(answered(rows({"answer": "b"}), ["a", "b"])).failed.any()
    with pytest.raises(ValueError, match="no policy in training; it works as the reward of PairwisePPOModule alone"):
        SelfReferee().score(answered(rows({}), ["a", "b"]))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"gold_scores": "9 7"}, r"field 'gold_scores': found '9 7' \(no ranking\)"),
        ({"gold_scores": [1]}, "no ranking"),
        ({"gold_scores": [1, 1]}, "no ranking"),
        ({"gold_scores": [1, True]}, "no ranking"),
        ({"gold_scores": [1, float("inf")]}, "no ranking"),
        ({"gold_scores": [1, float("nan")]}, "no ranking"),
        ({"gold_scores": [1, None]}, "no ranking"),
        ({"gold_scores": [2, 1], "answer": "b"}, r"field 'answer': found 'b' beside gold_scores \(two kinds of row\)"),
    ],
)
def test_rows_that_cannot_be_are_refused_before_the_run(extra: dict[str, Any], message: str) -> None:
    encoder = PromptEncoder(tiny_tokenizer(), 64, needs_anchors=False, readers=[SelfReferee(), RuleReward()])
    turn = ({"role": "user", "content": "task"},)
    for fine in ({"answer": "b"}, {"gold_scores": [2, 1.5]}, {"gold_scores": None, "answer": None}, {}):
        assert encoder.encode(AnchoredPrompt(turn, extra=fine)) is not None
    with pytest.raises(RowError, match=message):
        encoder.encode(AnchoredPrompt(turn, extra=extra))


def test_rows_that_were_checked_are_others_than_rows_that_were_not() -> None:
    plain, *checked = (
        PromptEncoder(tiny_tokenizer(), 64, readers=readers).fingerprint
        for readers in ([], [SelfReferee()], [SelfReferee(verifiable="label")])
    )
    assert len({plain, *checked}) == 3
    assert plain == PromptEncoder(tiny_tokenizer(), 64, readers=[RuleReward()]).fingerprint


def on_one_process_only(process: int) -> list[Any]:
    """Score an open row on the first process alone, then none on either."""
    policy = Policy()
    source = referee(policy)
    found = [source.score(answered(rows({} if process == 0 else {"answer": "b"}), ["a", "b"])).rewards.tolist()]
    found += [source.score(answered(rows({"answer": "b"}), ["a", "b"])).rewards.tolist()]
    return [len(policy.asked), *found]


def test_processes_sample_equally_often(tmp_path: Path) -> None:
    first, second = in_two_processes(on_one_process_only, tmp_path)
    assert first[0] == second[0] == 1
    assert sorted(first[1]) == [0, 1]
    assert second[1] == first[2] == second[2] == [0, 1]
