"""Attacks as losing responses of training pairs."""

from dataclasses import dataclass, field, replace
from random import Random

from prl.data.rows.records import PreferencePair
from prl.data.tokens import settings_hash
from prl.judge.attacks.families import FAMILIES, attacks

_TRIES = 100


@dataclass(frozen=True)
class AttackRows:
    """Pairs in which an attack loses to the better response of a pair of the data; docs/judge.md.

    Raises:
        ValueError: for a share out of its range, an unknown family, or no family to train on.
    """

    share: float = 0.02
    """Attacks per pair of the data, in (0, 1]: each pair draws whether one is added."""
    held_out: list[str] = field(default_factory=list)
    """Families that training never shows, so that their rate tells what the judge does with attacks unknown to it."""
    seed: int = 0
    """Seed of the draws, each of which also depends on the number of its row."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"attacks.share is {self.share}; expected a number in (0, 1], attacks per pair")
        if unknown := [name for name in self.held_out if name not in FAMILIES]:
            raise ValueError(f"attacks.held_out names {unknown[0]!r}; the families are {', '.join(FAMILIES)}")
        if not self.families:
            raise ValueError("attacks.held_out names all families, so there is none to train on; leave one out")

    @property
    def families(self) -> list[str]:
        """Families to train on."""
        return [name for name in FAMILIES if name not in self.held_out]

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide which rows are added."""
        return settings_hash(self.share, self.families, self.seed)

    def made_for(self, pair: PreferencePair, row: int, number: int, verdicts: tuple[str, str]) -> PreferencePair | None:
        """Draw whether an attack is added for a pair, and which; None where none is.

        Args:
            pair: a pair of the data. Of a tie, `chosen` is the response that wins.
            row: number of its row.
            number: number of the pair among those of its row, as of a ranked list.
            verdicts: the judge's verdict words.

        Raises:
            ValueError: when all that a family writes for this prompt is examined, or is the better response.
        """
        draws = Random(f"{self.seed}/{row}/{number}")
        if draws.random() >= self.share:
            return None
        family = FAMILIES[draws.choice(self.families)]
        better = pair.chosen if pair.preference >= 0.5 else pair.rejected
        taken = {*attacks(pair.prompt, verdicts).values(), better}
        question = pair.prompt[-1]["content"]
        for _ in range(_TRIES):
            if (text := family.draw(draws, question, verdicts).strip()) not in taken:
                attacked = replace(pair, chosen=better, rejected=text, preference=1.0, attack=family.name)
                return replace(attacked, extra={}, stripped=(0, 0))
        raise ValueError(f"row {row}: the family {family.name} has no attack on {question[:60]!r}; hold it out")
