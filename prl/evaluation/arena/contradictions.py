"""Direct win rates, and where they contradict the scale: pairs in the other order, and circles of three."""

from itertools import combinations
from typing import Any

from torch import Tensor

from prl.evaluation.arena.games import Games, Outcome, sums_by_prompt
from prl.evaluation.arena.intervals import NORMAL
from prl.verdict import wins


def direct_rates(games: Games, outcome: Outcome) -> tuple[Tensor, Tensor, Tensor]:
    """Average what the first player of each pair won, with 95 % intervals over prompts: [E] each.

    To the prompts on which a pair met 1.96^2 / 2 are added that each side won, and the interval is 1.96 standard errors
    about the mean of all. Of wins and losses it is that of Agresti and Coull (The American Statistician 52, 1998),
    which holds for few prompts too; points between 0 and 1 vary less, and it is narrower. NaN where a pair never met.
    """
    points, counts = sums_by_prompt(games, outcome)
    total, prompts = counts.sum(0), (counts > 0).sum(0).double()
    rate = points.sum(0) / total
    left = (points - counts * rate) * prompts / total  # of a prompt, of which a pair may have several comparisons
    left = left.masked_fill(counts == 0, 0)
    added = NORMAL**2
    middle = (prompts * rate + added / 2) / (prompts + added)
    squares = (left**2).sum(0) + prompts * (rate - middle) ** 2 + added * (0.25 + (middle - 0.5) ** 2)
    error = NORMAL * squares.sqrt() / (prompts + added)
    return rate, (middle - error).clamp(min=0), (middle + error).clamp(max=1)


def pair_table(names: list[str], games: Games, scores: Tensor, outcome: Outcome) -> list[dict[str, Any]]:
    """Describe each pair: comparisons, direct rate with interval, and what the scale expects.

    Args:
        names: of the K players.
        games: N comparisons.
        scores: [K].
        outcome: what a comparison counts.
    """
    rate, low, high = direct_rates(games, outcome)
    count = games.pair.bincount(minlength=len(rate))
    won = wins(games.logit)
    found = []
    for number, (a, b) in enumerate(combinations(range(len(names)), 2)):
        own = won[games.pair == number]
        results = {"wins": int((own == 1).sum()), "ties": int((own == 0.5).sum()), "losses": int((own == 0).sum())}
        found.append(
            {
                **{"a": names[a], "b": names[b], "comparisons": int(count[number]), **results},
                **{"rate": _number(rate[number]), "low": _number(low[number]), "high": _number(high[number])},
                "expected": float((scores[a] - scores[b]).sigmoid()),
            }
        )
    return found


def against_the_scale(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the pairs whose direct rate names another winner than the scale does, those of small intervals marked.

    `sure` is set where the whole interval of the direct rate is on the other side of 1/2.

    Args:
        pairs: of `pair_table`.
    """
    found = []
    for pair in pairs:
        if pair["rate"] is None or (pair["rate"] - 0.5) * (pair["expected"] - 0.5) >= 0:
            continue
        winner, loser = ("a", "b") if pair["rate"] > 0.5 else ("b", "a")
        found.append({"winner": pair[winner], "loser": pair[loser], **_as_seen_by(pair, pair[winner])})
        found[-1]["sure"] = found[-1]["low"] > 0.5
    return found


def circles(names: list[str], pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the triples a > b > c > a of direct rates, each with its three rates and their intervals.

    A tied pair is no win, so it is in no circle. `sure` is set where all three intervals are above 1/2.

    Args:
        names: of the K players.
        pairs: of `pair_table`.
    """
    between = {frozenset((pair["a"], pair["b"])): pair for pair in pairs}
    found = []
    for a, b, c in combinations(names, 3):
        for order in ((a, b, c), (a, c, b)):
            steps = [_step(between, *each) for each in zip(order, (*order[1:], order[0]), strict=True)]
            if all(step["rate"] is not None and step["rate"] > 0.5 for step in steps):
                found.append({"players": list(order), "steps": steps, "sure": all(each["low"] > 0.5 for each in steps)})
    return found


def _step(between: dict[frozenset[str], dict[str, Any]], winner: str, loser: str) -> dict[str, Any]:
    return {"winner": winner, "loser": loser, **_as_seen_by(between[frozenset((winner, loser))], winner)}


def _as_seen_by(pair: dict[str, Any], player: str) -> dict[str, Any]:
    rate, low, high = (pair[name] for name in ("rate", "low", "high"))
    if player != pair["a"] and rate is not None:
        rate, low, high = 1 - rate, 1 - high, 1 - low
    return {"rate": rate, "low": low, "high": high, "comparisons": pair["comparisons"]}


def _number(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)
