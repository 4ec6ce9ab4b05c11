"""Candidates, rules and checks: which two responses become chosen and rejected, and that no order mislabels them."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.data import AnchoredPrompt
from prl.pairs.base import CandidateRule, Choice, PairRule
from prl.pairs.candidates import Candidates, compare_candidates
from prl.pairs.checks import PairChecks
from prl.pairs.rules import RULES, BestOfN
from prl.pairs.rules.rejection_sampled import RejectionSampled, accept
from prl.pairs.writers import Written, read_brought, with_written
from prl.rewards import RuleReward
from prl.rewards.base import RewardSource
from prl.types import PromptBatch
from tests.helpers.pairs import CircleJudge, QualityJudge
from tests.helpers.records import answered


def compared(source: RewardSource, *texts_of_prompts: list[str]) -> list[Candidates]:
    texts = [text for texts in texts_of_prompts for text in texts]
    group = torch.tensor([number for number, texts in enumerate(texts_of_prompts) for _ in texts])
    ones = torch.ones(len(texts), 1, dtype=torch.bool)
    prompts = [({"role": "user", "content": f"prompt {number}"},) for number in group.tolist()]
    batch = PromptBatch(ones.long(), ones, prompts, [()] * len(texts), group=group)
    return compare_candidates(source, answered(batch, texts))


def test_every_two_responses_to_a_prompt_are_compared_in_both_orders() -> None:
    first, second = compared(QualityJudge(scale=2.0, bias=0.5), ["+", "+++", "++"], ["x", "++"])
    quality = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(first.margin, 2 * (quality[:, None] - quality))  # the bias of the first place cancels
    assert second.margin.tolist() == [[0.0, -4.0], [4.0, 0.0]]
    assert (first.prompt[0]["content"], second.prompt[0]["content"]) == ("prompt 0", "prompt 1")
    assert bool(first.agreed.all())
    biased = compared(QualityJudge(scale=1.0, bias=1.5), ["+", "+++", "++"])[0]
    assert biased.agreed.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_a_reward_of_each_response_gives_its_differences() -> None:
    (found,) = compared(RuleReward(lambda prompt, response, row: response.count("+")), ["+", "+++", "x"])
    assert found.margin.tolist() == [[0.0, -2.0, 1.0], [2.0, 0.0, 3.0], [-1.0, -3.0, 0.0]]
    torch.testing.assert_close(found.reward, torch.tensor([-0.5, 2.5, -2.0], dtype=torch.float64))


def test_win_rates_count_the_response_itself() -> None:
    """Scores 1.2, 0.3, -0.4 under Bradley-Terry: the figures of SPPO's own script."""
    scores = torch.tensor([1.2, 0.3, -0.4], dtype=torch.float64)
    found = Candidates((), ("a", "b", "c"), scores[:, None] - scores, torch.ones(3, 3, dtype=torch.bool))
    assert found.win_rate.tolist() == pytest.approx([0.680989, 0.485746, 0.333265], abs=1e-6)
    assert found.win_prob[0, 2].item() == pytest.approx(0.832018, abs=1e-6)
    torch.testing.assert_close(found.win_prob + found.win_prob.T, torch.ones(3, 3, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if issubclass(rule, PairRule)])
@given(seed=st.integers(0, 10**6))
def test_no_order_of_the_responses_changes_a_label(name: str, seed: int) -> None:
    """The pair of two texts has one label, whichever stands first, and no pair contradicts the judge."""
    draw = random.Random(seed)
    texts = draw.sample([f"{'+' * plus}{'x' * rest}" for plus in range(6) for rest in range(2)][1:], 5)
    labels: dict[frozenset[str], str] = {}
    for _ in range(4):
        draw.shuffle(texts)
        (candidates,) = compared(QualityJudge(scale=0.5, bias=draw.uniform(-1, 1)), texts)
        for pair in RULES[name]().choose(candidates, torch.Generator().manual_seed(draw.randrange(99))):
            chosen, rejected = candidates.texts[pair.chosen], candidates.texts[pair.rejected]
            if PairChecks(orders_agree=False).objection(candidates, pair) is None:
                assert chosen.count("+") > rejected.count("+")
                assert labels.setdefault(frozenset((chosen, rejected)), chosen) == chosen


@given(seed=st.integers(0, 10**6))
def test_the_best_and_the_worst_do_not_depend_on_the_order_even_where_some_are_equal(seed: int) -> None:
    texts = ["+ab", "+cd", "x", "y", "++"]
    random.Random(seed).shuffle(texts)
    (candidates,) = compared(QualityJudge(), texts)
    [pair] = RULES["BestWorst"]().choose(candidates, torch.Generator())
    assert (candidates.texts[pair.chosen], candidates.texts[pair.rejected]) == ("++", "y")


@pytest.mark.parametrize(
    ("judge", "texts", "checks", "objection"),
    [
        (QualityJudge(), ["++", "+"], {}, None),
        (QualityJudge(), ["+a", "+b"], {}, "ties"),
        (QualityJudge(), ["+", "++"], {}, "contradicted by their own comparison"),
        (QualityJudge(bias=1.5), ["++", "+"], {}, "with another winner in the other order"),
        (QualityJudge(bias=1.5), ["++", "+"], {"orders_agree": False}, None),
        (QualityJudge(), ["++", "+"], {"min_win_prob": 0.73}, None),  # sigma(1) = 0.7311
        (QualityJudge(), ["++", "+"], {"min_win_prob": 0.74}, "below min_win_prob"),
    ],
)
def test_what_speaks_against_a_pair(judge, texts, checks, objection) -> None:
    (candidates,) = compared(judge, texts)
    assert PairChecks(**checks).objection(candidates, Choice(0, 1)) == objection


def test_where_preferences_run_in_a_circle_a_rule_may_be_contradicted() -> None:
    (candidates,) = compared(CircleJudge(), ["c", "bb", "aaa"])
    assert candidates.win_rate.tolist() == pytest.approx([0.5] * 3)
    [pair] = RULES["BestWorst"]().choose(candidates, torch.Generator())
    assert PairChecks().objection(candidates, pair) == "contradicted by their own comparison"


def test_accepted_candidates_follow_the_tilted_distribution() -> None:
    """With a uniform proposal the first accepted one is a draw from softmax(r / beta): numbers of the paper's sheet."""
    expected = [0.643914, 0.236883, 0.087144, 0.032059]
    generator, draw, found = torch.Generator().manual_seed(0), random.Random(0), Counter()
    rewards, number = [1.0, 0.5, 0.0, -0.5], 4000
    for _ in range(number):
        # One candidate at a time, as rejection sampling proposes them; the best reward is known.
        while True:
            at = draw.randrange(4)
            if accept([rewards[at], 1.0], 0.5, 2, generator)[0] == 0:
                found[at] += 1
                break
    for at, share in enumerate(expected):
        assert abs(found[at] / number - share) < 4 * math.sqrt(share * (1 - share) / number)


def test_a_cold_sampler_keeps_the_best_and_a_hot_one_the_order() -> None:
    rewards = [0.1, 0.7, 0.4, 0.6]
    assert sorted(accept(rewards, 1e-4, 2, torch.Generator().manual_seed(1))) == [1, 3]
    assert accept(rewards, 1e9, 3, torch.Generator().manual_seed(1)) == [0, 1, 2]
    assert sorted(accept(rewards, 0.5, 9, torch.Generator().manual_seed(1))) == [0, 1, 2, 3]  # all, where there are few


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"beta": math.inf}, {"keep": 1}])
def test_settings_of_the_sampler_are_checked(settings) -> None:
    with pytest.raises(ValueError, match=f"RejectionSampled.{next(iter(settings))} is"):
        RejectionSampled(**settings)


@pytest.mark.parametrize("value", [0.4, 1.0])
def test_a_limit_that_keeps_the_worse_or_nothing_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="checks.min_win_prob is"):
        PairChecks(min_win_prob=value)


def test_equal_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="two candidates are equal"):
        Candidates((), ("a", "a"), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))


def test_rules_are_found() -> None:
    assert {"BestWorst", "AllPairs", "RejectionSampled", "BestOfN"} <= RULES.keys()
    assert all(issubclass(rule, CandidateRule) for rule in RULES.values())


@pytest.mark.parametrize(
    "source", [QualityJudge(bias=0.3), RuleReward(lambda prompt, response, row: response.count("+"))]
)
def test_the_best_of_n_are_kept_in_the_order_of_their_rewards(source: RewardSource) -> None:
    several, one = compared(source, ["+ab", "x", "+++", "+cd", "++"], ["x"])
    kept = [[several.texts[n] for n in BestOfN(keep).keep(several, torch.Generator())] for keep in (1, 3, 9)]
    assert kept == [["+++"], ["+++", "++", "+ab"], ["+++", "++", "+ab", "+cd", "x"]]
    assert BestOfN().keep(one, torch.Generator()) == [0]
    assert several.worth.tolist() == ([1, 0, 3, 1, 2] if isinstance(source, RuleReward) else several.reward.tolist())
    with pytest.raises(ValueError, match="BestOfN.keep is 0"):
        BestOfN(0)


# ---- several policies


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        (("pool", "pool"), ("++++", "strong", "+", "self")),
        (("self", "self"), ("+++", "self", "+", "self")),
        (("strong", "self"), ("++++", "strong", "+", "self")),
        (("self", "strong"), ("+++", "self", "++", "strong")),
        (("strong", "pool"), ("++++", "strong", "+", "self")),
        (("strong", "weak"), None),
    ],
)
def test_sides_come_from_the_sources_that_they_are_asked_of(sides, expected) -> None:
    """The text of two plus signs is of both policies, and the one that a side asks for is named."""
    (found,) = compared(QualityJudge(), ["+", "+++", "++", "++++"])
    candidates = replace(found, sources=(("self",), ("self",), ("self", "strong"), ("strong",)))
    chosen = RULES["BySource"](*sides).choose(candidates, torch.Generator())
    told = [
        (
            candidates.texts[pair.chosen],
            pair.chosen_source or candidates.sources[pair.chosen][0],
            candidates.texts[pair.rejected],
            pair.rejected_source or candidates.sources[pair.rejected][0],
        )
        for pair in chosen
    ]
    assert told == ([] if expected is None else [expected])


def test_one_text_is_no_pair_and_sources_are_of_every_candidate() -> None:
    (found,) = compared(QualityJudge(), ["+", "++"])
    both = replace(found, sources=(("self",), ("strong",)))
    assert RULES["BySource"]("strong", "strong").choose(both, torch.Generator()) == []
    assert RULES["BySource"]("self", "self").choose(found, torch.Generator()) == [Choice(1, 0, "self", "self")]
    with pytest.raises(ValueError, match="2 candidates, but sources of 1"):
        replace(found, sources=(("self",),))


def test_responses_of_others_stand_behind_their_prompts() -> None:
    ones = torch.ones(4, 1, dtype=torch.bool)
    prompts = [({"role": "user", "content": f"prompt {number}"},) for number in (0, 0, 1, 1)]
    batch = PromptBatch(ones.long(), ones, prompts, [()] * 4, [{"n": n} for n in range(4)], torch.tensor([0, 0, 1, 1]))
    joined = with_written(answered(batch, list("abcd")), [Written(1, "e", "x"), Written(0, "f", "y", finished=False)])
    assert joined.texts == list("abcdef")
    assert joined.group.tolist() == [0, 0, 1, 1, 1, 0]
    assert [each[0]["content"] for each in joined.batch.prompts[4:]] == ["prompt 1", "prompt 0"]
    assert joined.batch.extras[4:] == [{"n": 2}, {"n": 0}]
    assert joined.finished.tolist()[4:] == [True, False]
    assert joined.response_mask[4:].sum() == 0


@pytest.mark.parametrize("found", [None, ["a"], {"x": "a"}, {"x": [1]}, {"self": ["a"]}])
def test_responses_that_a_row_brings_along_have_names(found: object) -> None:
    [record] = AnchoredPrompt.parse({"prompt": "Hi?", "more": found})
    with pytest.raises(ValueError, match="the column 'more' of the prompt 'Hi\\?' is"):
        read_brought([record], "more", RULES["BestWorst"](), (), keep_thoughts=False)


def test_thoughts_of_written_responses_are_left_out_like_those_of_a_policy() -> None:
    [record] = AnchoredPrompt.parse({"prompt": "Hi?", "more": {"x": ["<think>so</think>\n a ", "b"]}})
    assert read_brought([record], "more", RULES["BestWorst"](), (), keep_thoughts=False) == [{"x": ["a", "b"]}]
    assert read_brought([record], "more", RULES["BestWorst"](), (), keep_thoughts=True) == [record.extra["more"]]


def test_a_rule_that_asks_for_a_writer_of_no_prompt_is_told_who_there_is() -> None:
    records = [AnchoredPrompt.parse({"prompt": "Hi?", "more": {name: ["a"]}})[0] for name in ("x", "y")]
    for asked in ("y", "peer", "self", "pool"):
        read_brought(records, "more", RULES["BySource"](asked, "x"), ["peer"], keep_thoughts=False)
    with pytest.raises(
        ValueError, match="BySource asks for 'z', whom no prompt names .*; the writers are self, peer, x, y"
    ):
        read_brought(records, "more", RULES["BySource"]("x", "z"), ["peer"], keep_thoughts=False)
