"""Rewards that come from rules, scalars and mixtures, and what becomes of those that cannot be had."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prl.judge import BradleyTerryJudge
from prl.judge.bradley_terry import save_bradley_terry
from prl.rewards import RuleReward, ScalarReward, WeightedReward
from prl.rewards.base import load_frozen
from prl.rewards.rule import exact_match
from prl.rewards.shapers.verdicts import LogOdds
from prl.types import PromptBatch
from tests.helpers.records import answered
from tests.helpers.tiny import LengthJudge, tiny_model, tiny_tokenizer


def batch(*anchors: tuple[str, ...], extras: list[dict[str, Any]] | None = None) -> PromptBatch:
    ids = torch.ones(len(anchors), 2, dtype=torch.long)
    turns = [({"role": "user", "content": f"copy {n}"},) for n in range(len(anchors))]
    return PromptBatch(ids, ids.bool(), turns, list(anchors), extras or [])


def num_chars(prompt: Any, response: str, row: dict[str, Any]) -> float:
    return float(len(response))


def no_digits(prompt: Any, response: str, row: dict[str, Any]) -> float | None:
    return None if any(map(str.isdigit, response)) else 1.0


def broken(prompt: Any, response: str, row: dict[str, Any]) -> float:
    raise KeyError("tests")


def test_a_source_of_ones_own_is_frozen_too() -> None:
    own = LengthJudge()
    own.model = torch.nn.Linear(2, 2)
    load_frozen(WeightedReward({"own": own}, {"own": 1.0}), torch.nn.Linear(1, 1), None)
    assert not own.model.training
    assert not any(parameter.requires_grad for parameter in own.model.parameters())


def test_a_judge_rewards_the_mean_over_anchors() -> None:
    found = LengthJudge().score(rows := answered(batch(("a", "abc"), ("ab",)), [" abc ", "a"]))
    assert LogOdds()(found, rows).rewards.tolist() == [(2 + 0) / 2, -1]  # stripped
    win = [torch.sigmoid(torch.tensor(margin)).item() for margin in (2.0, 0.0, -1.0)]
    assert found.rewards.tolist() == pytest.approx([(win[0] + win[1]) / 2, win[2]], abs=1e-6)
    assert found.response_index.tolist() == [0, 0, 1]
    assert not found.failed.any()


def test_a_rule_needs_no_anchor_and_reads_the_row() -> None:
    rows = batch((), (), extras=[{"answer": "four"}, {"answer": 4}])
    found = RuleReward(exact_match, scale=2.0).score(answered(rows, ["four", "5"]))
    assert found.rewards.tolist() == [2.0, 0.0]
    assert found.verdict is None
    assert not RuleReward.needs_anchors


def test_a_rule_says_who_won_where_there_are_anchors() -> None:
    found = RuleReward(num_chars).score(answered(batch(("a", "abcd"), ("x",)), ["abc", "x"]))
    assert found.rewards.tolist() == [3.0, 1.0]
    assert found.verdict.win_logit.tolist() == [2.0, -1.0, 0.0]
    assert found.response_index.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("rule", "reason"), [(no_digits, "no_digits returned None"), (broken, "KeyError: 'tests'")])
def test_a_rule_that_cannot_tell_gives_no_number_and_says_why(rule, reason: str) -> None:
    source = RuleReward(rule)
    found = source.score(answered(batch(()), ["4"]))
    assert found.failed.tolist() == [True]
    assert reason in source.failure()
    assert exact_match((), "x", {}) is None


def test_a_mix_is_the_weighted_sum_and_fails_where_a_part_does() -> None:
    sources = {"length": LengthJudge(), "clean": RuleReward(no_digits)}
    source = WeightedReward(sources, {"length": 0.5, "clean": 3.0}, {"length": [LogOdds()]})
    found = source.score(answered(batch(("a",), ("a",)), ["abc", "a12"]))
    assert found.rewards[0] == 0.5 * 2 + 3.0
    assert found.failed.tolist() == [False, True]
    assert found.components["length"].tolist() == [2.0, 2.0]
    assert found.components["clean"][0] == 1.0
    assert found.verdict.win_logit.tolist() == [2.0, 2.0]
    assert source.needs_anchors
    assert "clean: no_digits returned None" in source.failure()
    assert [type(part) for part in source.leaves()] == [LengthJudge, RuleReward]


def test_a_mix_of_rules_needs_no_anchors() -> None:
    source = WeightedReward({"a": RuleReward(num_chars), "b": RuleReward(no_digits)}, {"a": 1.0, "b": -1.0})
    assert not source.needs_anchors
    assert source.score(answered(batch(()), ["abc"])).rewards.tolist() == [2.0]


def test_weights_and_sources_have_the_same_names() -> None:
    with pytest.raises(ValueError, match=r"\['a'\], weights \['b'\]"):
        WeightedReward({"a": RuleReward(num_chars)}, {"b": 1.0})
    with pytest.raises(ValueError, match=r"shaping names \['b'\], but the sources are \['a'\]"):
        WeightedReward({"a": RuleReward(num_chars)}, {"a": 1.0}, {"b": []})


def test_the_scalar_of_a_bradley_terry_model_is_rewarded_as_it_is(tmp_path) -> None:
    model = tiny_model(3, AutoModelForSequenceClassification, num_labels=1)
    save_bradley_terry(tmp_path, model, tiny_tokenizer(), 64)
    source, judge = ScalarReward(str(tmp_path)), BradleyTerryJudge(str(tmp_path))
    source.load()
    judge.load()
    rows = batch(("x",), ("y",))
    found = source.score(answered(rows, ["abc", "de"]))
    assert torch.equal(found.rewards, judge.rewards(rows.prompts, ["abc", "de"]))
    anchors = judge.rewards(rows.prompts, ["x", "y"])
    assert torch.allclose(found.verdict.win_logit, found.rewards - anchors)
    assert source.score(answered(batch((), ()), ["abc", "de"])).verdict is None
