"""Figures of a policy's validation: win rates under one or two judges, raw and length-controlled, KL, the gap."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from prl.data.rows.records import prompt_key
from prl.evaluation.bootstrap import Interval, bootstrap_mean
from prl.evaluation.policy.length_control import length_controlled_rate
from prl.evaluation.policy.validation_log import ComparisonRow


def win_score(margin: float) -> float:
    """Score 1 where the response wins, 0 where the anchor does, 1/2 for a tie."""
    return float(margin > 0) + 0.5 * float(margin == 0)


def judged(rows: Iterable[ComparisonRow], prefix: str = "") -> list[ComparisonRow]:
    """Drop comparisons whose judgement failed: a failed margin is NaN in memory, null in files."""
    return [
        row for row in rows if row[f"{prefix}margin"] is not None and row[f"{prefix}margin"] == row[f"{prefix}margin"]
    ]


def policy_report(rows: Sequence[ComparisonRow]) -> dict[str, float]:
    """Compute every figure of one validation, intervals as `_lo` and `_hi`; held-out ones where rows have them.

    A response counts once, however many anchors it was compared with. Intervals are over prompts. Comparisons whose
    judgement failed are counted and left out of the win rates.

    Raises:
        ValueError: when there are no rows, or all judgements of a judge failed.
    """
    if not rows:
        raise ValueError("no comparisons to report on")
    known = _known(rows, "")
    kl = _mean(rows, (row["kl"] for row in rows)).mean
    numbers = {
        **_order_gap(known),
        "failed_frac": 1 - len(known) / len(rows),
        "kl": kl,
        "kl_sqrt": max(kl, 0.0) ** 0.5,
        "length": _mean(rows, (row["length"] for row in rows)).mean,
        "clipped_ratio": _mean(rows, (row["truncated"] for row in rows)).mean,
    }
    for prefix, name in (("", ""), ("heldout_", "_heldout")):
        if f"{prefix}margin" not in rows[0]:
            continue
        known = _known(rows, prefix)
        numbers |= with_interval(f"win_rate{name}", _mean(known, (win_score(row[f"{prefix}margin"]) for row in known)))
        numbers |= with_interval(f"win_prob{name}", _mean(known, (row[f"{prefix}p_win"] for row in known)))
        numbers |= with_interval(f"win_rate{name}_lc", _length_controlled(known, f"{prefix}p_win"))
    return numbers


def _known(rows: Sequence[ComparisonRow], prefix: str) -> list[ComparisonRow]:
    found = judged(rows, prefix)
    if not found:
        raise ValueError(f"the {'held-out ' if prefix else ''}judge could judge none of {len(rows)} comparisons")
    return found


def _order_gap(rows: Sequence[ComparisonRow]) -> dict[str, float]:
    """Average the order gap over the comparisons that were read in both orders; no number without any."""
    gaps = [(row["p_response_first"], row["p_anchor_first"]) for row in rows]
    both = [n for n, (first, second) in enumerate(gaps) if first == first and second == second and None not in gaps[n]]
    if not both:
        return {}
    known = [rows[n] for n in both]
    return {"order_gap": _mean(known, (abs(first - second) for first, second in (gaps[n] for n in both))).mean}


def _mean(rows: Sequence[ComparisonRow], column: Iterable[float]) -> Interval:
    """Average a number per comparison over responses."""
    values, answers = list(column), _by_response(rows)
    prompts = [prompt_key(rows[own[0]]["prompt"]) for own in answers]
    return bootstrap_mean([sum(values[n] for n in own) / len(own) for own in answers], prompts)


def _by_response(rows: Sequence[ComparisonRow]) -> list[list[int]]:
    """Group the comparisons of each response, by their index in `rows`."""
    found: dict[int, list[int]] = defaultdict(list)
    for n, row in enumerate(rows):
        found[row["row"]].append(n)
    return list(found.values())


def _length_controlled(rows: Sequence[ComparisonRow], column: str) -> Interval:
    weight = {n: 1 / len(own) for own in _by_response(rows) for n in own}
    return length_controlled_rate(
        [row[column] for row in rows],
        [len(row["response"].strip()) - len(row["anchor"].strip()) for row in rows],
        [prompt_key(row["prompt"]) for row in rows],
        [weight[n] for n in range(len(rows))],
    )


def with_interval(name: str, interval: Interval) -> dict[str, float]:
    """Name the three numbers of an interval: name, name_lo, name_hi."""
    return {name: interval.mean, f"{name}_lo": interval.low, f"{name}_hi": interval.high}


def judge_difference(rows: Sequence[ComparisonRow]) -> dict[str, float]:
    """Compute for each prompt (its key) the win rate under the training judge minus that under the held-out judge."""
    found: dict[str, list[float]] = defaultdict(list)
    rows = judged(judged(rows), "heldout_")
    for own in _by_response(rows):
        each = [win_score(rows[n]["margin"]) - win_score(rows[n]["heldout_margin"]) for n in own]
        found[prompt_key(rows[own[0]]["prompt"])].append(sum(each) / len(each))
    return {prompt: sum(values) / len(values) for prompt, values in found.items()}


def goodhart_gap(first: dict[str, float], now: dict[str, float]) -> Interval | None:
    """Compute how much more the training judge's win rate rose than the held-out judge's, paired by prompt.

    Args:
        first: `judge_difference` of the first validation.
        now: `judge_difference` of this validation.

    Returns:
        The gap with its interval over prompts; None when the two validations share no prompt.
    """
    common = [prompt for prompt in now if prompt in first]
    return bootstrap_mean([now[prompt] - first[prompt] for prompt in common]) if common else None
