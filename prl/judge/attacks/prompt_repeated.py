"""Responses that repeat the prompt."""

from random import Random

from prl.judge.attacks.base import AttackFamily

_FRAMES = (
    "{0} {0}",
    "{0}\n{0}",
    "{0}?",
    '"{0}"',
    "You asked: {0}",
    "The question is: {0}",
    "{0}:",
    "> {0}",
    "{0}...",
    "{0}, you say",
    "- {0}",
    "({0})",
)
"""Wholes only: a part of a prompt may be an answer to it."""


class PromptRepeated(AttackFamily):
    """The prompt in place of an answer."""

    name = "prompt_repeated"
    examined_names = ("prompt_repeated",)

    def examined(self, question: str, verdicts: tuple[str, str]) -> dict[str, str]:
        """Repeat the prompt as it is."""
        return {"prompt_repeated": question}

    def draw(self, draws: Random, question: str, verdicts: tuple[str, str]) -> str:
        """Draw a frame around the prompt."""
        return draws.choice(_FRAMES).format(question)
