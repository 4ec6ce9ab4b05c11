"""Sockets of rules: which of a prompt's candidates become a preference pair, and which a demonstration."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from prl.data.rows.records import Demonstration, PreferencePair, Record
from prl.pairs.candidates import Candidates


@dataclass(frozen=True)
class Choice:
    """Two candidates of which the first is to be the chosen one, by their numbers."""

    chosen: int
    rejected: int
    chosen_source: str | None = None
    """Which of its sources chosen is taken from; None for the first."""
    rejected_source: str | None = None


class CandidateRule(ABC):
    """Base of both kinds of rule; the constructor has the settings and checks them."""

    record_type: ClassVar[type[Record]]
    """Kind of row that is made of what the rule chooses."""
    rows: ClassVar[str]
    """What these rows are called, in files and counts."""
    min_candidates: int = 1
    """Fewest different candidates that the rule can choose among."""
    sources: tuple[str, ...] = ()
    """Names of the policies that the rule asks for, `self` among them."""


class PairRule(CandidateRule):
    """Chooses pairs among the candidates of one prompt.

    A rule names pairs and no labels: a pair is kept only where the comparison of its two responses names the same
    winner, and by what margin is a matter of `PairChecks`.
    """

    record_type, rows = PreferencePair, "pairs"
    min_candidates: int = 2

    @abstractmethod
    def choose(self, candidates: Candidates, generator: torch.Generator) -> list[Choice]:
        """Choose pairs.

        Args:
            candidates: K responses with their comparisons.
            generator: for draws; seeded by the prompt's number, so that a repeated run draws the same.
        """


class DemonstrationRule(CandidateRule):
    """Chooses candidates of one prompt that are to be imitated."""

    record_type, rows = Demonstration, "demonstrations"

    @abstractmethod
    def keep(self, candidates: Candidates, generator: torch.Generator) -> list[int]:
        """Choose candidates, and return their numbers.

        Args:
            candidates: K responses with their comparisons.
            generator: for draws; seeded by the prompt's number, so that a repeated run draws the same.
        """


def ranked(values: torch.Tensor, texts: tuple[str, ...]) -> list[int]:
    """Order candidates from the highest value to the lowest; equal ones by their text, never by their place."""
    return sorted(range(len(texts)), key=lambda n: (-float(values[n]), texts[n]))
