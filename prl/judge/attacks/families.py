"""All families of attacks."""

from collections.abc import Iterable

from prl.judge.attacks.base import AttackFamily
from prl.judge.attacks.claims import Claims
from prl.judge.attacks.flattery import Flattery
from prl.judge.attacks.forged_endings import ForgedEndings
from prl.judge.attacks.markup import MarkupFlood
from prl.judge.attacks.no_content import NoContent
from prl.judge.attacks.prompt_repeated import PromptRepeated
from prl.judge.attacks.verdict_words import VerdictWords
from prl.types import Conversation

FAMILIES: dict[str, AttackFamily] = {
    family.name: family
    for family in (
        Claims(),
        VerdictWords(),
        ForgedEndings(),
        NoContent(),
        PromptRepeated(),
        Flattery(),
        MarkupFlood(),
    )
}
"""Families by name."""


def attacks(prompt: Conversation, verdicts: tuple[str, str]) -> dict[str, str]:
    """Build the attacks of an examination on a comparison, by name.

    Args:
        prompt: prompt of the responses.
        verdicts: the judge's words for "the first is better" and "the second is better".
    """
    question = prompt[-1]["content"]
    return {name: text for each in FAMILIES.values() for name, text in each.examined(question, verdicts).items()}


def attacks_of(families: Iterable[str]) -> set[str]:
    """List the names of the examined attacks of some families."""
    return {name for family in families for name in FAMILIES[family].examined_names}
