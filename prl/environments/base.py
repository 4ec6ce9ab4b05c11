"""Socket of environments: text in, text and a reward out, turn by turn."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prl.types import Conversation

PLAYED = "episode"
"""Name among the columns of a row under which a sampler leaves what the environment gave (`Played`)."""


class Reply(NamedTuple):
    """What an environment says to one turn of the policy."""

    text: str
    """What the policy reads next; nobody reads it when the episode is over."""
    reward: float
    """Reward of the turn; NaN where it has none, which leaves the whole response out of the update."""
    is_over: bool
    """Whether the episode ends with this turn."""


class Episode(ABC):
    """One dialogue with an environment."""

    success: bool = False
    """Whether the policy has reached the goal; logged, and in no reward by itself."""

    @abstractmethod
    def reply(self, text: str) -> Reply:
        """Answer a turn of the policy, without the token that ended it."""


class Environment(ABC):
    """A task in turns. The arguments of the constructor are the settings.

    What is drawn at random comes from the row or from torch's generators: a resumed run then repeats it.
    """

    @abstractmethod
    def begin(self, prompt: Conversation, row: Mapping[str, Any]) -> Episode:
        """Begin an episode, whose first text the policy has read: the prompt.

        Args:
            prompt: messages of the prompt.
            row: further columns of the data. Responses to one prompt share it, so nothing may be changed in it.

        Raises:
            ValueError: for a prompt or row that is none of this environment, naming the column.
        """


@dataclass(frozen=True)
class Played:
    """What an environment gave for the turns of one response."""

    ends: tuple[int, ...]
    """Places of the last token of each answered turn in the response."""
    rewards: tuple[float, ...]
    """Reward of each of these turns."""
    success: bool
    """Whether the policy has reached the goal."""
