"""What two candidates have to be to each other before they are written as chosen and rejected."""

from dataclasses import dataclass

from prl.pairs.base import Choice
from prl.pairs.candidates import Candidates


@dataclass(frozen=True)
class PairChecks:
    """Limits on the comparison of the two responses of a pair; pairs beyond them are left out and counted."""

    min_win_prob: float = 0.5
    """Lowest probability, under the judge, that the chosen response beats the rejected one."""
    orders_agree: bool = True
    """Leave out pairs of which the judge names another winner when it reads them in the other order."""
    keep_unfinished: bool = False
    """Take responses that hit the length limit as candidates."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.min_win_prob < 1:
            raise ValueError(f"checks.min_win_prob is {self.min_win_prob}; expected at least 0.5 and below 1")

    def objection(self, candidates: Candidates, pair: Choice) -> str | None:
        """Name what speaks against a pair; None when nothing does.

        A tie and a comparison that names the other winner always do: then the rule and the judge disagree, as they can
        where preferences are not transitive, and either label would be a guess.
        """
        margin = float(candidates.margin[pair.chosen, pair.rejected])
        if margin == 0:
            return "ties"
        if margin < 0:
            return "contradicted by their own comparison"
        if self.orders_agree and not bool(candidates.agreed[pair.chosen, pair.rejected]):
            return "with another winner in the other order"
        if float(candidates.win_prob[pair.chosen, pair.rejected]) < self.min_win_prob:
            return "below min_win_prob"
        return None
