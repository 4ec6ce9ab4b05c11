"""Short instructions whose fulfilment code can compute, for a language model that was pre-trained on text.

A prompt asks for a sentence about a topic, a list, or a word several times over, under one or two conditions such as
``Use exactly 6 words.`` Each condition is a `Check` with a grade in [0, 1] that is 1 only where it is fulfilled; the
true quality of a response is the mean grade of its prompt's checks, and 0 without a word. It sees what is asked for and
nothing else: nonsense that fulfils all checks has quality 1. The truth labels pairs and measures models; it is
never a reward.

A label says that u is better than v with probability

    p(u better than v | x) = e + (1 - 2e) * sigmoid(8 (q_x(u) - q_x(v)))

the regime `scalar` of worlds.py: the law that Bradley-Terry assumes, with e = 0.05 of luck. A generative judge has no
advantage by the law.

Topics, categories and repeated words of validation prompts are in no training prompt, and combinations of checks in
UNSEEN are asked for in validation alone.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Split = Literal["train", "validation", "unseen"]
"""Training; validation with combinations of checks that training has; validation with those of UNSEEN."""

SHARPNESS, ERROR_RATE = 8.0, 0.05


@dataclass(frozen=True)
class Check:
    """One condition on a response: its kind, a key of GRADES, and what it asks for."""

    kind: str
    value: str | int | None = None


@dataclass(frozen=True)
class Instruction:
    """A prompt, and the conditions that its text states."""

    text: str
    checks: tuple[Check, ...]

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of its checks."""
        return frozenset(check.kind for check in self.checks)


# ---- grades


def words_of(response: str) -> list[str]:
    """Return the words of a text in lower case, without marks."""
    return re.findall(r"\w+(?:['’-]\w+)*", response.lower())


def _exactly(expected: int, found: int) -> float:
    """Grade a number: a factor 3/4 for each unit that it is off."""
    return float(0.75 ** abs(found - expected))


def _words(response: str, count: Any) -> float:
    return _exactly(count, len(words_of(response)))


def _lower(response: str, _: Any) -> float:
    """Grade lower case: a factor 1/2 for each word with a capital letter."""
    capital = sum(part != part.lower() for part in response.split())
    return float(0.5**capital) if any(map(str.isalpha, response)) else 0.0


def _begin(response: str, word: Any) -> float:
    """Grade the first word: a factor 0.7 for each word that stands in front of it."""
    found = words_of(response)
    return float(0.7 ** found.index(word)) if word in found else 0.0


def _contain(response: str, word: Any) -> float:
    return float(word in words_of(response))


def _avoid(response: str, word: Any) -> float:
    return float(0.5 ** words_of(response).count(word))


def _end(response: str, mark: Any) -> float:
    """Grade the end: 0.3 where the mark stands elsewhere."""
    return 1.0 if response.rstrip().endswith(mark) else 0.3 * (mark in response)


def _items(response: str, count: Any) -> float:
    """Grade a list: its number of parts, times the share of parts of one to three words, half on several lines."""
    parts = re.split(r"[,\n]+", response.strip())
    short = sum(1 <= len(words_of(part)) <= 3 for part in parts)
    return _exactly(count, len(parts)) * short / len(parts) * (0.5 if "\n" in response.strip() else 1.0)


def _times(response: str, asked: Any) -> float:
    """Grade a repeated word: a factor 3/4 for each time too many or too few, and for each other word."""
    count, word = asked.split(" ")
    found = words_of(response)
    right = found.count(word)
    return _exactly(int(count), right) * _exactly(0, len(found) - right)


GRADES: dict[str, Callable[[str, Any], float]] = {
    "words": _words,
    "lower": _lower,
    "begin": _begin,
    "contain": _contain,
    "avoid": _avoid,
    "end": _end,
    "items": _items,
    "times": _times,
}


def quality(checks: Sequence[Check], response: str) -> float:
    """Compute the true quality of a response in [0, 1]: the mean grade of the checks, and 0 without a word."""
    if not words_of(response):
        return 0.0
    return sum(GRADES[check.kind](response, check.value) for check in checks) / len(checks)


# ---- prompts

PHRASES: dict[str, tuple[str, ...]] = {
    "words": ("Use exactly {} words.", "Your answer must have {} words, no more and no less."),
    "lower": ("Write everything in lower case.", "Use no capital letters."),
    "begin": ('Begin with the word "{}".', 'The first word must be "{}".'),
    "contain": ('Include the word "{}".', 'The word "{}" must appear.'),
    "avoid": ('Do not use the word "{}".', 'Avoid the word "{}".'),
    "end": ("End with {}.", "Put {} at the end."),
}
SENTENCES = (
    "Write one sentence about {}.",
    "Write a short sentence about {}.",
    "Tell me something about {} in one sentence.",
    "Describe {} in one sentence.",
)
LISTS = (
    "List {} {} on one line, separated by commas.",
    "Name {} {} on one line, separated by commas.",
    "Write {} {} on one line with commas in between.",
)
REPEATS = ('Repeat the word "{1}" {0} times.', 'Write "{1}" {0} times.')
TOPICS: dict[bool, tuple[str, ...]] = {
    False: (
        *("cats", "coffee", "winter", "trains", "bread", "rivers", "music", "school", "horses", "rain", "chess"),
        *("summer", "birds", "bicycles", "cheese", "mountains", "books", "football", "bees", "snow", "tea"),
        *("gardens", "airplanes", "apples", "friends", "sleep", "movies", "ants", "money", "doctors"),
    ),
    True: ("dogs", "the sea", "pizza", "forests", "spring", "ships", "painting", "wolves", "honey", "the moon"),
}
"""Topics, categories and words of training (False) and of validation (True)."""
CATEGORIES: dict[bool, tuple[str, ...]] = {
    False: ("fruits", "colors", "countries", "tools", "sports", "farm animals", "cities", "drinks", "body parts"),
    True: ("vegetables", "wild animals", "musical instruments", "school subjects"),
}
REPEATED: dict[bool, tuple[str, ...]] = {
    False: ("yes", "apple", "go", "hello", "tree", "stop", "blue", "happy", "one", "run", "sun", "door"),
    True: ("no", "river", "green", "please"),
}
FIRST = ("the", "today", "many", "people", "when", "often", "some", "my", "perhaps", "in")
INCLUDED = ("always", "world", "old", "time", "small", "never", "best", "life", "new", "home")
AVOIDED = ("the", "and", "is", "a", "are", "of")
MARKS = {"!": "an exclamation mark", "?": "a question mark"}
CONDITIONS = tuple(PHRASES)
"""Kinds of checks that a sentence may have, one or two of them."""
UNSEEN = tuple(
    map(
        frozenset,
        (
            *(("words", "end"), ("lower", "begin"), ("contain", "avoid"), ("words", "contain"), ("lower", "avoid")),
            *(("items", "end"), ("times", "end")),
        ),
    )
)
"""Combinations that no training prompt has; each of their kinds is in training prompts in others."""


def _condition(draw: Random, kind: str) -> Check:
    values: dict[str, Sequence[Any]] = {
        **{"words": range(4, 11), "lower": (None,), "begin": FIRST, "contain": INCLUDED, "avoid": AVOIDED},
        "end": tuple(MARKS),
    }
    return Check(kind, draw.choice(values[kind]))


def _phrase(draw: Random, check: Check) -> str:
    return draw.choice(PHRASES[check.kind]).format(MARKS.get(str(check.value), check.value))


def _draw_instruction(draw: Random, held_out: bool) -> Instruction:
    form = draw.choices(("sentence", "list", "repeat"), weights=(75, 15, 10))[0]
    if form == "sentence":
        checks = [_condition(draw, kind) for kind in draw.sample(CONDITIONS, draw.choice((1, 2)))]
        text, stated = draw.choice(SENTENCES).format(draw.choice(TOPICS[held_out])), checks
    else:
        more = ("lower", "end") if form == "list" else ("end",)
        stated = [_condition(draw, draw.choice(more))] if draw.random() < 0.5 else []
        count = draw.randint(3, 6)
        if form == "list":
            checks = [Check("items", count), *stated]
            text = draw.choice(LISTS).format(count, draw.choice(CATEGORIES[held_out]))
        else:
            word = draw.choice(REPEATED[held_out])
            checks = [Check("times", f"{count} {word}"), *stated]
            text = draw.choice(REPEATS).format(count, word)
    return Instruction(" ".join([text, *(_phrase(draw, check) for check in stated)]), tuple(checks))


def instructions(seed: str, split: Split, count: int) -> list[Instruction]:
    """Draw different instructions of a split; equal seeds draw equal ones."""
    draw, found = Random(f"{seed}/{split}/instructions"), dict[str, Instruction]()
    while len(found) < count:
        drawn = _draw_instruction(draw, split != "train")
        if (drawn.kinds in UNSEEN) == (split == "unseen"):
            found.setdefault(drawn.text, drawn)
    return list(found.values())


# ---- labels


def probability(first: float, second: float) -> float:
    """Compute p(first better than second) of two qualities, by the law at the top of this file."""
    return ERROR_RATE + (1 - 2 * ERROR_RATE) / (1 + math.exp(-SHARPNESS * (first - second)))
