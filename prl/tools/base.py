"""Socket of tools: a text that a model wrote in, a text for it to read out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping


class ToolError(ValueError):
    """Raised for an input that a tool cannot answer; its message is what the model reads."""


class Tool(ABC):
    """A tool that a model calls by name with one line of text. Its constructor has its settings.

    The same input gives the same answer, or a reward that reads it would change when a run is resumed.
    """

    @abstractmethod
    def answer(self, text: str) -> str:
        """Answer an input, whatever a model wrote. Raises ToolError where there is no answer."""


def observe(tools: Mapping[str, Tool], name: str, text: str, longest: int) -> tuple[str, bool]:
    """Call a tool by its name, and return what the model reads in one line of at most `longest` characters.

    An error is an answer too: the model reads it and goes on.

    Returns:
        The observation, and whether the call failed.
    """
    try:
        if name not in tools:
            raise ToolError(f"there is no tool {name!r}; there are {', '.join(tools) or 'none'}")
        found, failed = tools[name].answer(text), False
    except ToolError as error:
        found, failed = f"Error: {error}", True
    except Exception as error:  # a tool of a user's own: one input must not end the run
        found, failed = f"Error: {type(error).__name__}", True
    text = " ".join(found.split()).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return text[:longest] or "nothing", failed
