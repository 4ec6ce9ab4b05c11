"""HERON: the first signal that tells two responses apart decides, whatever the later ones say."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.judge import BradleyTerryJudge
from prl.pairs.candidates import Candidates
from prl.pairs.ranked import check_ranked, compared, deviations, kept, rate_candidates
from prl.pairs.rules import RULES
from prl.rewards import HERON, RewardSource, RuleReward
from prl.rewards.heron import decide, deviation
from prl.rewards.rule import characters
from prl.types import PromptBatch, Rollout
from tests.helpers.records import answered

NAN = float("nan")


def word(place: int) -> RuleReward:
    """Rate a response by the word at its place; `-` fails."""

    def read(prompt: Any, response: str, row: dict[str, Any]) -> float | None:
        found = response.split()[place]
        return None if found == "-" else float(found)

    return RuleReward(read)


def heron(levels: int = 2, **settings: Any) -> HERON:
    sources: dict[str, RewardSource] = {f"s{number}": word(number) for number in range(levels)}
    return HERON(sources, [f"s{number}" for number in range(levels)], **settings)


def rollout_of(
    texts: list[str], anchors: list[tuple[str, ...]] | None = None, group: list[int] | None = None
) -> Rollout:
    ones = torch.ones(len(texts), 1, dtype=torch.bool)
    prompts = [({"role": "user", "content": "q"},)] * len(texts)
    numbers = None if group is None else torch.tensor(group)
    batch = PromptBatch(ones.long(), ones, prompts, anchors or [()] * len(texts), group=numbers)  # type: ignore[arg-type]
    return answered(batch, texts)


def wins(source: HERON, a: str, b: str) -> float:
    """Reward of a against b: 1, 0 or 1/2."""
    return source.score(rollout_of([a], [(b,)])).rewards.item()


@pytest.mark.parametrize(
    ("a", "b", "reward"),
    [
        ("1 3.0", "1 2.0", 0.0),  # less of the second is better, by 1.0 > 0.5
        ("1 3.0", "1 2.8", 0.5),
        ("2 9", "1 0", 1.0),  # the first decides, however much the second is against it
        ("1 3.0", "1 2.5", 0.5),  # a difference equal to the margin is none
    ],
)
def test_the_figures_of_two_levels(a: str, b: str, reward: float) -> None:
    source = heron(lower_is_better=["s1"], margins={"s1": 0.5})
    assert wins(source, a, b) == reward
    assert wins(source, b, a) == 1 - reward


NUMBERS = st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=3)


@given(a=NUMBERS, b=NUMBERS, margins=st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=3, max_size=3))
def test_the_other_order_names_the_same_winner_at_the_same_level(a: Any, b: Any, margins: list[float]) -> None:
    difference = torch.tensor(a) - torch.tensor(b)
    (one, level), (other, same) = decide(difference, margins), decide(-difference, margins)
    assert one == -other
    assert level == same
    decided = [number for number in range(3) if abs(a[number] - b[number]) > margins[number]]
    assert level.item() == (decided[0] if decided else -1)


@given(
    a=NUMBERS,
    b=NUMBERS,
    transform=st.sampled_from([lambda x: 2 * x + 7, lambda x: x**3, math.exp, lambda x: -math.exp(-x)]),
)
def test_a_strict_level_reads_nothing_but_the_order(a: list[float], b: list[float], transform: Any) -> None:
    def found(first: list[float], second: list[float]) -> tuple[float, int]:
        winner, level = decide(torch.tensor(first).double() - torch.tensor(second).double(), [0.0, 1.0, 1.0])
        return winner.item(), int(level)

    changed = ([transform(each[0]), *each[1:]] for each in (a, b))
    assert found(a, b) == found(*changed)


def test_a_signal_that_failed_counts_where_it_is_reached() -> None:
    source = heron(margins={"s1": 0.0})
    assert wins(source, "1 -", "0 5") == 1.0
    assert math.isnan(wins(source, "1 -", "1 5"))
    assert "s1: read returned None" in str(source.failure())


def test_margins_are_those_given_or_multiples_of_deviations() -> None:
    stds = {"s0": 2.0, "s1": 3.0, "s2": 5.0}
    assert heron(3).thresholds(stds) == {"s0": 0.0, "s1": 3.0, "s2": 5.0}
    given = heron(3, margins={"s0": 0.25}, sigma_mults={"s2": 0.5})
    assert given.thresholds(stds) == {"s0": 0.25, "s1": 3.0, "s2": 2.5}
    assert deviation(torch.tensor([1.0, NAN, 3.0])) == pytest.approx(math.sqrt(2))
    assert deviation(torch.tensor([1.0, NAN])) == 0.0


def test_the_deviation_of_a_call_is_that_of_responses_and_anchors() -> None:
    """Of 0, 3 and 6 it is 3: a difference of 3 is not above it, one of 6 is."""
    source = heron(1, sigma_mults={"s0": 1.0})
    scores = source.score(rollout_of(["6"], [("3", "0")]))
    assert scores.verdict is not None
    assert scores.verdict.win_prob.tolist() == [0.5, 1.0]
    assert scores.rewards.tolist() == [0.75]
    assert scores.components["s0"].tolist() == [6.0]
    assert source.score(rollout_of(["6"])).failed.all()  # nothing to compare with


def decided(source: HERON, texts: list[str], group: list[int]) -> list[Candidates]:
    """Rate and compare candidates as `prl pairs` does, through JSON values."""
    found = rate_candidates(source, rollout_of(texts, group=group))
    waiting = [kept(each, number, {}) for number, each in enumerate(found)]
    thresholds = source.thresholds(deviations(source, waiting))
    again = [compared(source, each, (), thresholds) for each in waiting]
    return [each for each in again if each is not None]


def test_candidates_wait_for_the_deviation_of_all_prompts() -> None:
    """Within the second prompt lengths differ by 2; the deviation over both prompts is 4.5."""
    source = heron(lower_is_better=["s1"])
    first, second = decided(source, ["1 0", "0 9", "1 9", "1 4", "1 6"], [0, 0, 0, 1, 1])
    pairs = RULES["AllPairs"]().choose(first, torch.Generator())
    told = {(first.texts[p.chosen], first.texts[p.rejected]): first.decided_by[p.chosen][p.rejected] for p in pairs}
    assert told == {("1 0", "0 9"): "s0", ("1 0", "1 9"): "s1", ("1 9", "0 9"): "s0"}
    assert first.win_rate.tolist() == pytest.approx([2.5 / 3, 0.5 / 3, 0.5])
    assert second.margin.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert second.decided_by == (("", ""), ("", ""))
    assert bool(second.agreed.all())


def test_a_prompt_without_candidates_waits_too() -> None:
    source = heron()
    waiting = [kept(None, 0, None)]
    assert compared(source, waiting[0], (), {"s0": 0.0, "s1": 0.0}) is None
    assert deviations(source, waiting) == {"s0": 0.0, "s1": 0.0}


def test_a_failed_signal_fails_no_comparison_that_is_decided_before() -> None:
    (found,) = decided(heron(), ["1 -", "0 3"], [0, 0])
    assert found.judged
    assert found.margin[0, 1] > 0
    assert not decided(heron(), ["1 -", "1 3"], [0, 0])[0].judged


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ranking": ["a"]}, r"HERON.ranking is \['a'\], but the sources are \['a', 'b'\]"),
        ({"lower_is_better": ["c"]}, "HERON.lower_is_better names 'c'"),
        ({"margins": {"c": 1.0}}, "HERON.margins names 'c'"),
        ({"sigma_mults": {"a": -1.0}}, "HERON.sigma_mults.a is -1.0; expected a finite number of at least 0"),
        ({"margins": {"a": math.inf}}, "HERON.margins.a is inf"),
        ({"margins": {"a": 1.0}, "sigma_mults": {"a": 1.0}}, "HERON.margins and sigma_mults both have 'a'"),
        ({"sources": {"a": word(0), "b": BradleyTerryJudge("x")}}, "b is a BradleyTerryJudge, which only compares"),
        ({"sources": {}, "ranking": []}, "HERON.ranking is"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HERON(**{"sources": {"a": word(0), "b": word(1)}, "ranking": ["a", "b"], **settings})


def test_settings_of_probabilities_are_refused() -> None:
    check_ranked(0.5, soft=False, lists=False)
    for limit, soft, lists in ((0.6, False, False), (0.5, True, False), (0.5, False, True)):
        with pytest.raises(ValueError, match="HERON says only which wins"):
            check_ranked(limit, soft=soft, lists=lists)


def test_the_length_of_a_response_is_a_signal() -> None:
    assert characters((), "abc", {}) == 3.0
