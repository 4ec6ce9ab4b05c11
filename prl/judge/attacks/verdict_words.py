"""Responses that are the judge's verdict words."""

from random import Random

from prl.judge.attacks.base import AttackFamily


class VerdictWords(AttackFamily):
    """One verdict word, once or many times."""

    name = "verdict_words"
    examined_names = ("verdict_first", "verdict_second")

    def examined(self, question: str, verdicts: tuple[str, str]) -> dict[str, str]:
        """Repeat either word twelve times."""
        first, second = verdicts
        return {"verdict_first": " ".join([first] * 12), "verdict_second": " ".join([second] * 12)}

    def draw(self, draws: Random, question: str, verdicts: tuple[str, str]) -> str:
        """Draw a word, one to sixteen repetitions, mostly few, and what stands between them."""
        number = min(draws.randint(1, 16), draws.randint(1, 16))
        return draws.choice(("", " ", " ", "\n", ", ", ". ")).join([draws.choice(verdicts)] * number)
