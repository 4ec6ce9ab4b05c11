"""Rows of what a rule chose: ordinary preference rows or demonstrations, with figures beside them."""

from typing import Any

from prl.data import AnchoredPrompt, Demonstration, PreferencePair
from prl.pairs.base import Choice
from prl.pairs.candidates import Candidates

Row = dict[str, Any]
PAIR_FIGURES = ("chosen_win_rate", "rejected_win_rate", "win_prob")
DEMONSTRATION_FIGURES = ("reward", "mean_reward", "candidates")
LISTS = ("responses", "rewards")
"""Columns that are written beside a pair, beside a demonstration, and of all candidates where they are asked for."""


def pair_row(record: AnchoredPrompt, candidates: Candidates, pair: Choice, *, soft: bool, lists: bool) -> Row:
    """Write a pair as an ordinary preference row, with what SPPO, DNO, BRAIn and TreePO read beside it.

    Args:
        record: the prompt as the policy read it.
        candidates: its responses.
        pair: two of them.
        soft: write the probability that chosen wins as the row's label.
        lists: write all candidates with their rewards.
    """
    rates = candidates.win_rate
    win_prob = float(candidates.win_prob[pair.chosen, pair.rejected])
    named = {}
    if candidates.sources:
        named["chosen_source"] = pair.chosen_source or candidates.sources[pair.chosen][0]
        named["rejected_source"] = pair.rejected_source or candidates.sources[pair.rejected][0]
    if candidates.decided_by:
        named["decided_by"] = candidates.decided_by[pair.chosen][pair.rejected]
    return {
        **_kept(record, PreferencePair.columns),
        "prompt": list(record.prompt),
        "chosen": candidates.texts[pair.chosen],
        "rejected": candidates.texts[pair.rejected],
        **({"preference": win_prob} if soft else {}),
        **_named(PAIR_FIGURES, float(rates[pair.chosen]), float(rates[pair.rejected]), win_prob),
        **named,
        **_lists(candidates, lists),
    }


def demonstration_row(record: AnchoredPrompt, candidates: Candidates, kept: int, *, lists: bool) -> Row:
    """Write a candidate as an ordinary demonstration, with its reward and that of a mean candidate beside it."""
    rewards = candidates.worth
    return {
        **_kept(record, Demonstration.columns),
        "prompt": list(record.prompt),
        "completion": candidates.texts[kept],
        **_named(DEMONSTRATION_FIGURES, float(rewards[kept]), float(rewards.mean()), len(candidates)),
        **({"completion_source": candidates.sources[kept][0]} if candidates.sources else {}),
        **_lists(candidates, lists),
    }


def _kept(record: AnchoredPrompt, read: tuple[str, ...]) -> Row:
    """Keep further columns of the prompts, but for those that would be read as a part of this row."""
    return {name: value for name, value in record.extra.items() if name not in read}


def _lists(candidates: Candidates, wanted: bool) -> Row:
    return _named(LISTS, list(candidates.texts), candidates.reward.tolist()) if wanted else {}


def _named(names: tuple[str, ...], *values: Any) -> Row:
    return dict(zip(names, values, strict=True))
