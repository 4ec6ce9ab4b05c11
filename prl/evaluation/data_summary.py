"""Statistics of a data set, and the accuracy of rules that never read the texts: plain functions of records."""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from prl.data.audit import audit_pairs
from prl.data.rows.records import AnchoredPrompt, Demonstration, PreferencePair, Record, prompt_key
from prl.evaluation.bootstrap import bootstrap_mean
from prl.evaluation.separability import Tokens, same_source, separability, words

QUANTILES = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}

_MARKDOWN = re.compile(r"^ *(?:#{1,6} |[-*+] |\d+\. |```|\|)|\*\*", re.MULTILINE)

# The rule -> what the winner has more of.
_RULES: dict[str, Callable[[str, int], int]] = {
    "the longer wins": lambda text, _: len(text),
    "the shorter wins": lambda text, _: -len(text),
    "more lines win": lambda text, _: text.count("\n"),
    "more markdown wins": lambda text, _: len(_MARKDOWN.findall(text)),
    "more white space at the ends wins": lambda _, stripped: stripped,
}


def describe(records: Sequence[Record], tokens: Tokens | None = None) -> dict[str, Any]:
    """Describe records of one kind as JSON values.

    Args:
        records: at least one, all of one kind.
        tokens: splits a text; without it lengths are in characters only, and the probe reads words.
    """
    keys = [prompt_key(record.prompt) for record in records]
    found: dict[str, Any] = {"num_prompts": len(set(keys)), "lengths": {"characters": lengths(records, len)}}
    if tokens is not None:
        found["lengths"]["tokens"] = lengths(records, lambda text: len(tokens(text)))
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    if pairs:
        audit = audit_pairs(pairs)
        found["num_duplicates"], found["num_contradictions"] = len(audit.duplicates), audit.num_contradictions
        found["labels"] = label_counts(pairs)
        found["baselines"] = baselines(pairs, keys)
        found["separability"] = separability(pairs, keys, tokens or words)
        found["same_source"] = same_source(pairs)
    anchored = [record for record in records if isinstance(record, AnchoredPrompt)]
    if anchored:
        found["num_without_anchor"] = sum(not record.anchors for record in anchored)
    return found


def lengths(records: Sequence[Record], measure: Callable[[str], int]) -> dict[str, dict[str, int]]:
    """Compute quantiles of the length of each part of the records; a prompt's length is the sum over its messages."""
    measured: dict[str, list[int]] = defaultdict(list)
    for record in records:
        measured["prompt"].append(sum(measure(message["content"]) for message in record.prompt))
        if isinstance(record, PreferencePair):
            measured["chosen"].append(measure(record.chosen))
            measured["rejected"].append(measure(record.rejected))
        elif isinstance(record, Demonstration):
            measured["completion"].append(measure(record.completion))
        elif isinstance(record, AnchoredPrompt):
            measured["anchor"] += map(measure, record.anchors)
    return {
        part: {name: int(np.quantile(values, q, method="lower")) for name, q in QUANTILES.items()}
        for part, values in measured.items()
        if values
    }


def label_counts(pairs: Sequence[PreferencePair]) -> dict[str, int]:
    """Count pairs whose winner is certain, uncertain, or missing; and pairs whose better response is `rejected`."""
    return {
        "hard": sum(pair.preference in (0, 1) for pair in pairs),
        "soft": sum(pair.preference not in (0, 0.5, 1) for pair in pairs),
        "ties": sum(pair.preference == 0.5 for pair in pairs),
        "rejected_better": sum(pair.preference < 0.5 for pair in pairs),
    }


def baselines(pairs: Sequence[PreferencePair], keys: Sequence[Hashable]) -> dict[str, dict[str, float]]:
    """Compute the accuracy of rules that a judge must beat, each over the pairs that it decides, by prompt.

    Args:
        pairs: the pairs; ties have no winner and are left out.
        keys: key of the prompt of each pair.
    """
    decided = [(pair, key) for pair, key in zip(pairs, keys, strict=True) if pair.preference != 0.5]
    found = {}
    for rule, measure in _RULES.items():
        leads = [
            measure(pair.chosen, pair.stripped[0]) - measure(pair.rejected, pair.stripped[1]) for pair, _ in decided
        ]
        found[rule] = accuracy_of(leads, decided)
    with_models = [row for row in decided if {"chosen_model", "rejected_model"} <= row[0].extra.keys()]
    if with_models:
        tested, rate_leads = _generator_leads(with_models)
        found["the better generator wins"] = accuracy_of(rate_leads, tested)
    return {rule: numbers for rule, numbers in found.items() if numbers}


def accuracy_of(leads: Sequence[float], rows: Sequence[tuple[PreferencePair, Hashable]]) -> dict[str, float]:
    """Compute how often the response that leads is the better one, over the pairs with a lead. Empty without any."""
    right = [
        ((lead > 0) == (pair.preference > 0.5), key) for lead, (pair, key) in zip(leads, rows, strict=True) if lead != 0
    ]
    if not right:
        return {}
    interval = bootstrap_mean([float(hit) for hit, _ in right], [key for _, key in right])
    return {"accuracy": interval.mean, "low": interval.low, "high": interval.high, "num_pairs": len(right)}


def _generator_leads(
    rows: Sequence[tuple[PreferencePair, Hashable]],
) -> tuple[list[tuple[PreferencePair, Hashable]], list[float]]:
    """Subtract the win rate of rejected's generator from chosen's; rates come from the other half of the prompts."""
    prompts = sorted({str(key) for _, key in rows})  # keys are hashes, so their order is as good as a draw
    fitted = set(prompts[: len(prompts) // 2])
    wins: dict[str, float] = defaultdict(float)
    games: dict[str, int] = defaultdict(int)
    for pair, key in rows:
        if str(key) in fitted:
            for side, share in (("chosen_model", pair.preference), ("rejected_model", 1 - pair.preference)):
                wins[str(pair.extra[side])] += share
                games[str(pair.extra[side])] += 1

    def rate(model: object) -> float:
        return (wins[str(model)] + 1) / (games[str(model)] + 2)  # 1/2 for a generator that was not seen

    tested = [row for row in rows if str(row[1]) not in fitted]
    return tested, [rate(pair.extra["chosen_model"]) - rate(pair.extra["rejected_model"]) for pair, _ in tested]
