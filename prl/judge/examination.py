"""Everything that is measured of a judge with a set of pairs: the report, the attacks, and cycles among responses."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch

from prl.data.records import Conversation, PreferencePair, prompt_key
from prl.evaluation.intervals import bootstrap_mean
from prl.evaluation.judge_report import JudgedPairs, judge_report
from prl.evaluation.transitivity import cyclic_triples
from prl.judge.base import PairwiseJudge
from prl.judge.canaries import canary_report

MAX_PROMPTS = 20
"""Prompts whose responses are compared all with all."""
MAX_RESPONSES = 5
"""Responses of each of them: ten triples."""


def judge_pairs(judge: PairwiseJudge, pairs: Sequence[PreferencePair]) -> JudgedPairs:
    """Judge all pairs in both orders.

    Raises:
        ValueError: without pairs, or when the judge gives numbers that are not finite.
    """
    if not pairs:
        raise ValueError("no pairs to examine the judge with")
    verdict = judge.compare([p.prompt for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs])
    sources = [p.extra.get("source") for p in pairs]
    return JudgedPairs(
        verdict,
        torch.tensor([p.preference for p in pairs], device=verdict.margin_ab.device, dtype=torch.float64),
        [prompt_key(p.prompt) for p in pairs],
        torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs], device=verdict.margin_ab.device),
        [None if source is None else str(source) for source in sources],
    )


def examine(judge: PairwiseJudge, pairs: Sequence[PreferencePair], judged: JudgedPairs | None = None) -> dict[str, Any]:
    """Say everything that docs/judge.md explains, as plain JSON values; `judged` is what `judge_pairs` found, if known.

    Raises:
        ValueError: without pairs, or when the judge gives numbers that are not finite.
    """
    judged = judged or judge_pairs(judge, pairs)
    canaries = canary_report(judge, pairs)
    return {
        **judge_report(judged),
        "cyclic_triples": cyclic_share(judge, pairs),
        "canaries": canaries,
        "canary_rate": max((each["mean"] for each in canaries.values()), default=None),
        "cut_share": judge.cut_share(),
    }


def cyclic_share(judge: PairwiseJudge, pairs: Sequence[PreferencePair]) -> dict[str, Any] | None:
    """Share of the triples of responses to one prompt that go round in a circle; None without three to any prompt.

    The responses of a prompt are those of all its pairs. The first MAX_PROMPTS prompts with three are used, and the
    first MAX_RESPONSES responses of each.
    """
    responses: dict[str, tuple[Conversation, dict[str, None]]] = {}
    for pair in pairs:
        known = responses.setdefault(prompt_key(pair.prompt), (pair.prompt, {}))[1]
        known.update(dict.fromkeys((pair.chosen, pair.rejected)))
    groups = [(prompt, list(known)[:MAX_RESPONSES]) for prompt, known in responses.values() if len(known) >= 3]
    groups = groups[:MAX_PROMPTS]
    if not groups:
        return None
    # One order of the names is enough: `compare` reads both.
    rows = [(prompt, u, v) for prompt, texts in groups for u, v in combinations(texts, 2)]
    verdict = judge.compare([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    logits = iter(verdict.win_logit.double().cpu().tolist())
    cyclic: list[float] = []
    names: list[int] = []
    for number, (_, texts) in enumerate(groups):
        wins = torch.zeros(len(texts), len(texts), dtype=torch.float64)
        for i, j in combinations(range(len(texts)), 2):
            wins[i, j] = next(logits)
            wins[j, i] = -wins[i, j]
        found, triples = cyclic_triples(wins)
        cyclic += [1.0] * found + [0.0] * (triples - found)
        names += [number] * triples
    interval = bootstrap_mean(cyclic, names)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "num": len(cyclic)}
