"""Report of an arena: the scale with its intervals, win rates, lengths and contradictions, as a JSON object."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from prl.evaluation.arena.bradley_terry import ELO, ELO_MEAN, PRIOR_TIES
from prl.evaluation.arena.contradictions import against_the_scale, circles, pair_table
from prl.evaluation.arena.games import Games, Outcome
from prl.evaluation.arena.intervals import Scale, difference, scale_of, without_each
from prl.evaluation.arena.lengths import at_equal_lengths
from prl.verdict import wins

Row = dict[str, Any]


def arena_report(names: Sequence[str], games: Games, lengths: tuple[Tensor, Tensor], outcome: Outcome) -> Row:
    """Compute the figures of docs/arena.md.

    Args:
        names: of the K players.
        games: N comparisons that did not fail.
        lengths: [N] characters of the first player's response, and of the second's.
        outcome: what a comparison counts.

    Raises:
        ValueError: when no comparison is left.
    """
    scale = scale_of(games, outcome)
    pairs = pair_table(list(names), games, scale.scores, outcome)
    return {
        "outcome": outcome,
        "comparisons": len(games),
        "prompts": games.num_prompts,
        "ties": int((games.logit == 0).sum()),
        "prior_ties": PRIOR_TIES,
        **_players(list(names), games, lengths, scale, outcome),
        "neighbours": _neighbours(list(names), scale),
        "pairs": pairs,
        "against_the_scale": against_the_scale(pairs),
        "circles": circles(list(names), pairs),
        "triples": len(list(combinations(names, 3))),
    }


def _players(names: list[str], games: Games, lengths: tuple[Tensor, Tensor], scale: Scale, outcome: Outcome) -> Row:
    """Describe each player, the best first, and the effect of length."""
    equal = at_equal_lengths(games, lengths[0] - lengths[1], outcome)
    moved = without_each(games, outcome, scale.scores)
    points, won = games.points(outcome), wins(games.logit)
    found = []
    for number in scale.scores.argsort(descending=True, stable=True).tolist():
        one, other = games.first == number, games.second == number
        results = torch.cat([won[one], 1 - won[other]])
        num = len(results)
        chars = float(torch.cat([lengths[0][one], lengths[1][other]]).double().mean()) if num else None
        found.append(
            {
                "name": names[number],
                "score": float(scale.scores[number]),
                "by_prompt": _ends(scale.low[number], scale.high[number]),
                "by_player": None if moved is None else _ends(moved[0][number], moved[1][number]),
                "elo": ELO_MEAN + ELO * float(scale.scores[number]),
                "elo_by_prompt": _ends(ELO_MEAN + ELO * scale.low[number], ELO_MEAN + ELO * scale.high[number]),
                "at_equal_lengths": {
                    "score": float(equal.scores[number]),
                    **_ends(equal.low[number], equal.high[number]),
                    "extrapolated": bool(equal.extrapolated[number]),
                },
                "comparisons": num,
                **{name: int((results == value).sum()) for name, value in (("wins", 1), ("ties", 0.5), ("losses", 0))},
                "rate": float(torch.cat([points[one], 1 - points[other]]).mean()) if num else None,
                "mean_length": chars,
            }
        )
    return {"players": found, "length_effect": equal.length_effect}


def _neighbours(names: list[str], scale: Scale) -> list[Row]:
    """Describe how far each player stands above the next one, with the interval of the difference over prompts."""
    order = scale.scores.argsort(descending=True, stable=True).tolist()
    found = []
    for above, below in zip(order, order[1:], strict=False):
        distance, low, high = difference(scale, above, below)
        ends = {"low": _end(low), "high": _end(high)}
        found.append({"above": names[above], "below": names[below], "difference": distance, **ends})
    return found


def _ends(low: Tensor, high: Tensor) -> Row:
    """Write both ends of an interval; null where there is none."""
    return {"low": _end(float(low)), "high": _end(float(high))}


def _end(value: float) -> float | None:
    return None if math.isinf(value) else value
