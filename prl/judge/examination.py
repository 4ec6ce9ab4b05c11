"""Examination of a judge with a set of pairs: report, attacks, round robins, batch layouts."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch

from prl.data.rows.records import PreferencePair, prompt_key
from prl.evaluation.judge.report import JudgedPairs, judge_report
from prl.evaluation.judge.transitivity import RoundRobin, transitivity_report
from prl.judge.attacks.report import attack_report, highest_rate
from prl.judge.base import PairwiseJudge
from prl.types import Conversation

log = logging.getLogger(__name__)

MAX_PROMPTS = 20
"""Prompts whose responses are compared all with all."""
MAX_RESPONSES = 5
"""Most responses of each such prompt: ten triples."""
LAYOUT_PAIRS = 32
"""Pairs that are also judged one by one."""


def judge_pairs(judge: PairwiseJudge, pairs: Sequence[PreferencePair]) -> JudgedPairs:
    """Judge all pairs in both orders.

    Raises:
        ValueError: without pairs, or when the judge gives numbers that are not finite.
    """
    if not pairs:
        raise ValueError("no pairs to examine the judge with")
    pairs = [better_first(pair) for pair in pairs]
    verdict = judge.compare([p.prompt for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs])
    orders = [(p.prompt, p.chosen, p.rejected) for p in pairs], [(p.prompt, p.rejected, p.chosen) for p in pairs]
    reasons = [judge.reasons_of(order) for order in orders]
    thinking = [each for each in judge.leaves() if getattr(each, "reasoning", None) is not None]
    if thinking and reasons[0] is None:
        log.warning(
            "%s keeps margins without the thoughts behind them, so the report has no table of what is reached with "
            "fewer thoughts; measure %s by itself for it",
            *(type(judge).__name__, type(thinking[0]).__name__),
        )
    sources = [p.extra.get("source") for p in pairs]
    return JudgedPairs(
        verdict,
        torch.tensor([p.preference for p in pairs], device=verdict.margin_ab.device, dtype=torch.float64),
        [prompt_key(p.prompt) for p in pairs],
        torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs], device=verdict.margin_ab.device),
        [None if source is None else str(source) for source in sources],
        None if reasons[0] is None or reasons[1] is None else (reasons[0], reasons[1]),
        getattr(judge, "temperature", 1.0),
    )


def examine(
    judge: PairwiseJudge,
    pairs: Sequence[PreferencePair],
    judged: JudgedPairs | None = None,
    *,
    probes: bool = True,
    unseen: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compute all figures of docs/judge.md, as plain JSON values.

    Args:
        judge: a loaded judge.
        pairs: labelled pairs.
        judged: result of `judge_pairs`, if known.
        probes: also run attacks, round robins and batch layouts.
        unseen: families of attacks that the judge was not trained on; all when None.

    Raises:
        ValueError: without pairs, or when the judge gives numbers that are not finite.
    """
    judged = judged or judge_pairs(judge, pairs)
    if not probes:
        return {**judge_report(judged), "cut_share": judge.truncated_fraction()}
    pairs = [better_first(pair) for pair in pairs]
    canaries = attack_report(judge, pairs)
    return {
        **judge_report(judged),
        **transitivity_report(round_robins(judge, pairs)),
        "canaries": canaries,
        "canary_rate": highest_rate(canaries),
        "held_out_attack_rate": highest_rate(canaries, unseen),
        "layout_gap": layout_gap(judge, pairs[:LAYOUT_PAIRS]),
        "cut_share": judge.truncated_fraction(),
    }


def better_first(pair: PreferencePair) -> PreferencePair:
    """Put the better response as `chosen`; for a tie, the response that comes first in the alphabet.

    A file may put either response first. Reports read ordered pairs, so that not even a batch depends on the file.
    """
    behind = pair.rejected < pair.chosen if pair.preference == 0.5 else pair.preference < 0.5
    if not behind:
        return pair
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, preference=1 - pair.preference)


def layout_gap(judge: PairwiseJudge, pairs: Sequence[PreferencePair]) -> float:
    """Measure the largest change of any margin between judging pairs one by one and in padded batches, in log-odds.

    A judge that attends to padding, or counts it in positions, has a margin that depends on the rest of its batch.
    Thoughts are sampled once: one that rounding turns into another is no fault of the layout (docs/reasoning.md).
    """
    columns = [p.prompt for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs]
    with judge.thoughts_kept():
        together = judge.compare(*columns)
        alone = [judge.compare([prompt], [a], [b]) for prompt, a, b in zip(*columns, strict=True)]
    change = [
        torch.cat([getattr(each, name) for each in alone]) - getattr(together, name)
        for name in ("margin_ab", "margin_ba")
    ]
    return float(torch.cat(change).abs().max())


def round_robins(judge: PairwiseJudge, pairs: Sequence[PreferencePair]) -> list[RoundRobin]:
    """Compare the responses to one prompt all with all, for the prompts that have three or more in the pairs.

    The first MAX_PROMPTS of these prompts are used, and the first MAX_RESPONSES responses of each.
    """
    prompts: dict[str, tuple[Conversation, dict[str, None]]] = {}
    beaten: set[tuple[str, str, str]] = set()
    for pair in pairs:
        name = prompt_key(pair.prompt)
        known = prompts.setdefault(name, (pair.prompt, {}))[1]
        known.update(dict.fromkeys((pair.chosen, pair.rejected)))
        if pair.preference != 0.5:
            winner = pair.preference > 0.5
            beaten.add((name, *((pair.chosen, pair.rejected) if winner else (pair.rejected, pair.chosen))))
    several = [(name, prompt, list(known)) for name, (prompt, known) in prompts.items() if len(known) >= 3]
    groups = [(name, prompt, texts[:MAX_RESPONSES]) for name, prompt, texts in several[:MAX_PROMPTS]]
    # One order of each pair is enough: `compare` reads both.
    rows = [(prompt, u, v) for _, prompt, texts in groups for u, v in combinations(texts, 2)]
    verdict = judge.compare([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    logits = iter(verdict.win_logit.double().cpu().tolist())
    robins = []
    for name, _, texts in groups:
        matrix = torch.zeros(len(texts), len(texts), dtype=torch.float64)
        for i, j in combinations(range(len(texts)), 2):
            matrix[i, j] = next(logits)
            matrix[j, i] = -matrix[i, j]
        best = [all((name, u, v) in beaten and (name, v, u) not in beaten for v in texts if v != u) for u in texts]
        robins.append(RoundRobin(matrix, best.index(True) if any(best) else None))
    return robins
