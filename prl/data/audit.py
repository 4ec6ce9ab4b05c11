"""Repeated and contradictory pairs, and prompts on both sides of a split. Finds and counts; changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from prl.data.records import PreferencePair, Record, prompt_key


@dataclass(frozen=True)
class PairAudit:
    """What pairs say more than once. Two pairs compare the same if prompt and responses are equal, in either order."""

    duplicates: list[int]
    """Indices of pairs that an earlier one says already: the same comparison with the same winner (or a tie again)."""
    num_contradictions: int
    """Comparisons of which one pair prefers the one response and another pair the other."""


def audit_pairs(pairs: Sequence[PreferencePair]) -> PairAudit:
    """Find exact duplicates and contradictions."""
    verdicts: dict[tuple[str, str, str], set[str | None]] = {}
    duplicates = []
    for index, pair in enumerate(pairs):
        one, other = sorted((pair.chosen, pair.rejected))
        seen = verdicts.setdefault((prompt_key(pair.prompt), one, other), set())
        winner = None if pair.preference == 0.5 else pair.chosen if pair.preference > 0.5 else pair.rejected
        if winner in seen:
            duplicates.append(index)
        seen.add(winner)
    return PairAudit(duplicates, sum(len(winners - {None}) == 2 for winners in verdicts.values()))


def shared_prompts(one: Sequence[Record], other: Sequence[Record]) -> int:
    """How many prompts stand in both."""
    return len({prompt_key(record.prompt) for record in one} & {prompt_key(record.prompt) for record in other})
