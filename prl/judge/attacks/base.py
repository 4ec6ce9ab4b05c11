"""Socket of a family of attacks: responses that win by how they are written, without an answer in them."""

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar


class AttackFamily(ABC):
    """Attacks that work by one idea.

    The texts of an examination are fixed and equal for all judges. Those of training are drawn from other wordings, so
    that an examination never shows a judge a text that it was trained on.
    """

    name: ClassVar[str]
    """Name in settings and passports."""
    examined_names: ClassVar[tuple[str, ...]]
    """Names of the attacks of `examined`."""

    @abstractmethod
    def examined(self, question: str, verdicts: tuple[str, str]) -> dict[str, str]:
        """Write the attacks of an examination, by name.

        Args:
            question: text of the prompt's last turn.
            verdicts: the judge's words for "the first is better" and "the second is better".
        """

    @abstractmethod
    def draw(self, draws: Random, question: str, verdicts: tuple[str, str]) -> str:
        """Draw an attack for training; `draws` decides every choice. Other arguments as of `examined`."""
