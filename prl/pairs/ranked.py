"""Candidates that wait to be compared until the signals of all of them are known: standard deviations need all data."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from prl.pairs.candidates import Candidates, groups_of
from prl.pairs.rows import Row
from prl.rewards.heron import HERON, UNDECIDED, deviation
from prl.types import Conversation, Rollout


def check_ranked(min_win_prob: float, *, soft: bool, lists: bool) -> None:
    """Refuse settings that read probabilities or rewards, of which `HERON` gives none.

    Raises:
        ValueError: naming the setting.
    """
    given = {"labels: soft": soft, f"checks.min_win_prob {min_win_prob}": min_win_prob > 0.5, "lists": lists}
    for setting in [setting for setting, is_given in given.items() if is_given]:
        raise ValueError(
            f"{setting} is about how far apart responses are, and HERON says only which wins; leave it out"
        )


def rate_candidates(source: HERON, rollout: Rollout) -> list[Candidates]:
    """Rate the responses to each prompt of a rollout by every signal; comparisons come later.

    Args:
        source: loaded, on the device of the rollout.
        rollout: as of `compare_candidates`.
    """
    signals, texts = source.signals(rollout), [text.strip() for text in rollout.texts]
    found = []
    for rows in groups_of(rollout):
        own = {name: values[rows] for name, values in signals.items()}
        none = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        rated = Candidates(
            rollout.batch.prompts[rows[0]], tuple(texts[row] for row in rows), none, none == 0, signals=own
        )
        found.append(rated)
    return found


def kept(candidates: Candidates | None, number: int, columns: Row | None) -> dict[str, Any]:
    """Write a prompt's candidates as JSON values.

    Args:
        candidates: rated; None where the prompt has none.
        number: of the prompt.
        columns: further columns of its rows; None where they are missing.
    """
    about: dict[str, Any] = {"number": number, "columns": columns, "texts": None}
    if candidates is not None:
        signals = {name: values.tolist() for name, values in candidates.signals.items()}
        about |= {"texts": candidates.texts, "sources": candidates.sources, "signals": signals}
    return about


def deviations(source: HERON, waiting: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Compute the standard deviation of each signal over all candidates."""
    values: dict[str, list[float]] = {name: [] for name in source.ranking}
    for each in waiting:
        if each["texts"] is not None:
            for name, numbers in each["signals"].items():
                values[name] += numbers
    return {name: deviation(torch.tensor(numbers, dtype=torch.float64)) for name, numbers in values.items()}


def compared(
    source: HERON, each: Mapping[str, Any], prompt: Conversation, thresholds: Mapping[str, float]
) -> Candidates | None:
    """Compare a prompt's candidates with each other; None where it has none.

    Args:
        source: whose signals they are rated by.
        each: what `kept` wrote.
        prompt: the prompt.
        thresholds: margin of each signal.
    """
    if each["texts"] is None:
        return None
    signals = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in each["signals"].items()}
    rows = {name: values[:, None] for name, values in signals.items()}
    columns = {name: values[None, :] for name, values in signals.items()}
    margin, level = source.compare(rows, columns, thresholds)
    margin.fill_diagonal_(0)  # a response ties with itself, even one whose signals failed
    names = dict(enumerate(source.ranking)) | {UNDECIDED: ""}
    decided_by = tuple(tuple(names[number] for number in of_row) for of_row in level.tolist())
    sources = tuple(tuple(some) for some in each["sources"])
    agreed = torch.ones_like(margin, dtype=torch.bool)
    return Candidates(prompt, tuple(each["texts"]), margin, agreed, None, sources, signals, decided_by)
