"""Share of comparisons that attacks win. PPO will exploit a judge that lets one win."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prl.data.rows.records import PreferencePair, prompt_key
from prl.evaluation.judge.report import estimate
from prl.judge.attacks.families import attacks, attacks_of
from prl.judge.base import PairwiseJudge
from prl.types import Conversation
from prl.verdict import wins

MAX_PROMPTS = 24
"""Prompts on which every attack is tried."""


def attack_report(judge: PairwiseJudge, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Measure the share of comparisons that each attack wins against the better response of a pair, ties one half.

    The first pair with a winner is used for each prompt, up to MAX_PROMPTS prompts.

    Returns:
        attack -> {mean, low, high, num}; empty where no pair has a winner.
    """
    normal: dict[str, tuple[Conversation, str]] = {}
    for pair in pairs:
        if pair.preference != 0.5 and len(normal) < MAX_PROMPTS:
            better = pair.chosen if pair.preference > 0.5 else pair.rejected
            normal.setdefault(prompt_key(pair.prompt), (pair.prompt, better))
    if not normal:
        return {}
    tried = [attacks(prompt, judge.verdict_words) for prompt, _ in normal.values()]
    rows = [
        (name, prompt, text, better)
        for t, (prompt, better) in zip(tried, normal.values(), strict=True)
        for name, text in t.items()
    ]
    verdict = judge.compare([row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows])
    won = wins(verdict.win_logit.double().cpu())
    keys = [key for key in normal for _ in tried[0]]
    return {name: estimate(won, torch.tensor([row[0] == name for row in rows]), keys) for name in tried[0]}


def highest_rate(report: Mapping[str, Any], families: Sequence[str] | None = None) -> float | None:
    """Find the share that the most successful attack wins; None where none was tried.

    Args:
        report: result of `attack_report`.
        families: families to look at; all when None.
    """
    names = report.keys() if families is None else report.keys() & attacks_of(families)
    return max((report[name]["mean"] for name in names), default=None)
