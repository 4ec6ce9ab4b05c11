"""What a judge that reasons reaches with fewer thoughts, and with shorter and longer ones."""

import pytest
import torch

from prl.evaluation.judge.report import JudgedPairs, judge_metrics, judge_report
from prl.rewards.folder_checks import passport_fault
from prl.verdict import Reasons, Verdict


def judged(pairs: int = 40, samples: int = 3, temperature: float = 1.0) -> JudgedPairs:
    draw = torch.Generator().manual_seed(0)
    margins = [torch.randn(pairs, samples, generator=draw, dtype=torch.float64) for _ in range(2)]
    tokens = [torch.randint(1, 9, (pairs, samples), generator=draw) for _ in range(2)]
    orders = [Reasons(z, n, n == 8) for z, n in zip(margins, tokens, strict=True)]
    means = [z.sigmoid().mean(-1).logit() / temperature for z in margins]
    targets = torch.tensor([1.0, 0.0, 0.7, 0.5]).repeat(pairs // 4)
    lengths = torch.ones(pairs, 2)
    return JudgedPairs(
        Verdict(*means), targets, list(range(pairs)), lengths, reasons=tuple(orders), temperature=temperature
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_figures_of_the_first_thoughts_are_those_of_a_judge_that_has_no_more(temperature) -> None:
    pairs = judged(temperature=temperature)
    report = judge_report(pairs)["reasons"]
    assert list(report["samples"]) == ["1", "2", "3"]
    for number in (1, 2, 3):
        means = [each.margins[:, :number].sigmoid().mean(-1).logit() / temperature for each in pairs.reasons]
        expected, found = judge_metrics(Verdict(*means), pairs.targets), report["samples"][str(number)]
        for name in ("accuracy", "nll"):
            assert found[name]["mean"] == pytest.approx(expected[name]), name
        assert found["ece"] == pytest.approx(expected["ece"])
        tokens = sum(each.tokens[:, :number].sum(1) for each in pairs.reasons).double()
        assert found["tokens"]["mean"] == pytest.approx(float(tokens.mean()))
    whole = judge_metrics(pairs.verdict, pairs.targets)
    assert report["samples"]["3"]["accuracy"]["mean"] == pytest.approx(whole["accuracy"])
    assert report["unfinished"] == pytest.approx(
        float(torch.stack([r.unfinished for r in pairs.reasons]).float().mean())
    )


def test_bins_by_length_hold_each_pair_once() -> None:
    pairs = judged()
    bins = judge_report(pairs)["reasons"]["thought_tokens"]
    assert 2 <= len(bins) <= 4
    assert sum(each["tokens"]["num"] for each in bins.values()) == 40
    length = torch.stack([each.tokens for each in pairs.reasons]).double().mean((0, 2))
    ends = [tuple(map(float, name.split(" to "))) for name in bins]
    assert all(first[1] < second[0] for first, second in zip(ends, ends[1:], strict=False))
    for (low, high), found in zip(ends, bins.values(), strict=True):
        inside = (length >= low - 1e-5) & (length <= high + 1e-5)
        assert found["tokens"]["num"] == int(inside.sum())
        right = judge_metrics(pairs.verdict.select(inside), pairs.targets[inside])["accuracy"]
        assert found["accuracy"]["mean"] == pytest.approx(right)


def test_swapping_the_responses_of_a_file_changes_nothing() -> None:
    pairs = judged()
    swapped = JudgedPairs(
        Verdict(pairs.verdict.margin_ba, pairs.verdict.margin_ab),
        1 - pairs.targets,
        pairs.prompts,
        pairs.lengths,
        reasons=pairs.reasons[::-1],
    )
    decided = pairs.targets != 0.5  # of a tie either response may be the first
    some = [each.better_first() for each in (pairs, swapped)]
    for one, other in zip(some[0].reasons, some[1].reasons, strict=True):
        assert torch.equal(one.margins[decided], other.margins[decided])
        assert torch.equal(one.tokens[decided], other.tokens[decided])


def test_a_passport_may_hold_the_figures_and_a_direct_judge_has_none() -> None:
    report = judge_report(judged())
    assert passport_fault({"format": 1, "judge": {}, "data": {}, "report": report}) is None
    report["reasons"]["samples"]["1"]["ece"] = "low"
    assert "reasons.samples.1.ece is 'low'" in passport_fault({"format": 1, "judge": {}, "data": {}, "report": report})
    direct = judged()
    plain = JudgedPairs(direct.verdict, direct.targets, direct.prompts, direct.lengths)
    assert "reasons" not in judge_report(plain)
