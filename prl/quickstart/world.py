"""A small world with a known truth: short tasks over strings, noisy demonstrations, noisy preferences, anchors.

A prompt names a task and its argument, ``reverse dca``; exactly one response is right. Because code knows how good
every other response is (``gold_quality``), a run can be measured against the truth. That truth labels pairs and
evaluates policies; it is never a reward and never written to a file.

What "better" means, and how much a given step in quality is worth, changes with the prompt: a sum that is off by one
keeps most of its worth, a word with a missing letter may lose nearly all of it. Annotators answer

    p(u better than v | x) = e + (1 - 2e) * sigmoid(k_x * (1 + s(u, v)) * (q_x(u) - q_x(v)))

with the gold quality ``q_x``, the sharpness ``k_x`` of the prompt's family, the similarity ``s(u, v)`` in [0, 1] of
the two responses (share of equal positions: like things are easier to compare), and the error rate ``e``
(``LABEL_ERROR_RATE``). The log-odds are no difference ``r(x, u) - r(x, v)`` of two scores, since ``s`` looks at both.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

Split = Literal["train", "validation"]
Record = dict[str, str]

SPLITS: tuple[Split, ...] = ("train", "validation")
LETTERS = "abcdefgh"
LABEL_ERROR_RATE = 0.02
DEMONSTRATION_ERROR_RATE = 0.35
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Family:
    """One kind of task. ``quality(answer, response)`` is in [0, 1], and 1 only where the two are equal."""

    name: str
    sample: Callable[[Random], str]
    answer: Callable[[str], str]
    quality: Callable[[str, str], float]
    sharpness: float


@dataclass(frozen=True)
class WorldSizes:
    """Rows per file. Validation rows use other prompts than training rows, whatever the sizes."""

    train_demonstrations: int = 20_000
    validation_demonstrations: int = 500
    train_pairs: int = 77_000
    validation_pairs: int = 1_000
    train_prompts: int = 4_000
    validation_prompts: int = 300


# ---- arguments and answers


def _word(rng: Random) -> str:
    """Draw three different letters; with more, or equal ones, a small model cannot spot mistakes."""
    return "".join(rng.sample(LETTERS, 3))


def _sum(rng: Random) -> str:
    return f"{rng.randint(2, 40)}+{rng.randint(2, 9)}"


def _add(argument: str) -> str:
    left, right = argument.split("+")
    return str(int(left) + int(right))


def _next_letters(argument: str) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in argument)


def _double(argument: str) -> str:
    return "".join(letter * 2 for letter in argument)


# ---- gold quality, one meaning per family


def _agreement(first: str, second: str) -> float:
    """Compute the share of equal positions, over the longer of the two."""
    longer = max(len(first), len(second))
    return sum(a == b for a, b in zip(first, second, strict=False)) / longer if longer else 1.0


def _positions(answer: str, response: str) -> float:
    return _agreement(answer, response)


def _strict_positions(answer: str, response: str) -> float:
    return _agreement(answer, response) ** 2


def _order(answer: str, response: str) -> float:
    """Score the right letters and their order by one half each; order alone is worth nothing."""
    shared = sum((Counter(answer) & Counter(response)).values())
    letters = 2 * shared / (len(answer) + len(response))
    steps = [a <= b for a, b in zip(response, response[1:], strict=False)]
    return letters * (1 + sum(steps) / len(steps)) / 2 if steps else letters / 2


def _letters_and_case(answer: str, response: str) -> float:
    """Score letters; a letter in the wrong case keeps half of its worth."""
    return (_agreement(answer, response) + _agreement(answer.lower(), response.lower())) / 2


def _closeness(answer: str, response: str) -> float:
    """Score a number by its distance, a factor 3/4 per unit; anything but a plain number is worthless."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,3}", response):
        return 0.0
    return float(0.75 ** abs(int(answer) - int(response)))


def _length_then_positions(answer: str, response: str) -> float:
    """Score length and letters; a wrong length costs more than a wrong letter."""
    shorter, longer = sorted((len(answer), len(response)))
    return _agreement(answer, response) * (shorter / longer) ** 2


def _prefix(answer: str, response: str) -> float:
    """Score only the text before the first mistake."""
    right = 0
    for expected, found in zip(answer, response, strict=False):
        if expected != found:
            break
        right += 1
    return right / max(len(answer), len(response))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("reverse", _word, lambda word: word[::-1], _positions, sharpness=14),
        Family("sort", _word, lambda word: "".join(sorted(word)), _order, sharpness=20),
        Family("upper", _word, str.upper, _letters_and_case, sharpness=16),
        Family("double", _word, _double, _length_then_positions, sharpness=14),
        Family("add", _sum, _add, _closeness, sharpness=16),
        Family("next", _word, _next_letters, _prefix, sharpness=12),
        Family("ends", _word, lambda word: word[0] + word[-1], _strict_positions, sharpness=12),
    )
}


def _parse(prompt: str) -> tuple[Family, str]:
    name, _, argument = prompt.partition(" ")
    if name not in FAMILIES:
        raise ValueError(f"prompt {prompt!r}: no task named {name!r}; the tasks are {', '.join(FAMILIES)}")
    return FAMILIES[name], argument


def right_answer(prompt: str) -> str:
    """Return the one response of quality 1; also the anchor of the prompt."""
    family, argument = _parse(prompt)
    return family.answer(argument)


def gold_quality(prompt: str, response: str) -> float:
    """Score any response in [0, 1]. For labels and evaluation, never for a reward."""
    family, argument = _parse(prompt)
    return family.quality(family.answer(argument), response)


def preference_probability(prompt: str, first: str, second: str) -> float:
    """Compute p(first better than second | prompt), by the formula at the top of this file."""
    family, _ = _parse(prompt)
    gap = gold_quality(prompt, first) - gold_quality(prompt, second)
    log_odds = family.sharpness * (1 + _agreement(first, second)) * gap
    return LABEL_ERROR_RATE + (1 - 2 * LABEL_ERROR_RATE) / (1 + math.exp(-log_odds))


# ---- mistakes


def _swap(rng: Random, text: str) -> str:
    at = rng.randrange(max(len(text) - 1, 1))
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def _drop(rng: Random, text: str) -> str:
    at = rng.randrange(len(text))
    return text[:at] + text[at + 1 :] or text  # an empty response is no response


def _repeat(rng: Random, text: str) -> str:
    at = rng.randrange(len(text))
    return text[: at + 1] + text[at:]


def _replace(rng: Random, text: str) -> str:
    at = rng.randrange(len(text))
    letters = LETTERS.upper() if text[at].isupper() else LETTERS
    return text[:at] + rng.choice(letters) + text[at + 1 :]


def _change_case(rng: Random, text: str) -> str:
    if rng.random() < 0.5:
        return text.swapcase()
    at = rng.randrange(len(text))
    return text[:at] + text[at].swapcase() + text[at + 1 :]


def _miscount(rng: Random, text: str) -> str:
    return str(max(0, int(text) + rng.choice((-10, -4, -3, -2, -1, 1, 2, 3, 4, 10))))


def _other_task(rng: Random, argument: str) -> str:
    """Answer another question about the same word, or return the word itself."""
    texts = [family.answer(argument) for family in FAMILIES.values() if family.name != "add"]
    return rng.choice([*texts, argument])


_LETTER_MISTAKES = (_swap, _drop, _repeat, _replace, _replace, _change_case)
_NUMBER_MISTAKES = (_miscount, _miscount, _miscount, _swap, _drop, _repeat)


def corrupt(rng: Random, prompt: str, response: str) -> str:
    """Add one mistake to ``response``: never empty, never unchanged."""
    _, argument = _parse(prompt)
    while True:
        if response.isdecimal():
            mistaken = rng.choice(_NUMBER_MISTAKES)(rng, response)
        elif rng.random() < 0.15:
            mistaken = _other_task(rng, argument)
        else:
            mistaken = rng.choice(_LETTER_MISTAKES)(rng, response)
        if mistaken != response:
            return mistaken


# ---- records


def split_of(prompt: str) -> Split:
    """Return the split of a prompt: equal in every world, so that worlds of many seeds can be mixed."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "validation" if int.from_bytes(digest[:4], "big") < VALIDATION_SHARE * 2**32 else "train"


def sample_prompt(rng: Random, split: Split) -> str:
    """Draw a prompt of ``split``, each family equally often."""
    family = rng.choice(list(FAMILIES.values()))
    while True:
        prompt = f"{family.name} {family.sample(rng)}"
        if split_of(prompt) == split:
            return prompt


def demonstrations(rng: Random, split: Split, count: int) -> Iterator[Record]:
    """Draw prompts with a completion that is right most of the time, for supervised training."""
    for _ in range(count):
        prompt = sample_prompt(rng, split)
        completion = right_answer(prompt)
        if rng.random() < DEMONSTRATION_ERROR_RATE:
            completion = corrupt(rng, prompt, completion)
        yield {"prompt": prompt, "completion": completion}


def _candidate(rng: Random, prompt: str) -> str:
    response = right_answer(prompt)
    for _ in range(rng.choices((0, 1, 2), weights=(35, 40, 25))[0]):
        response = corrupt(rng, prompt, response)
    return response


def _two_candidates(rng: Random, prompt: str) -> tuple[str, str]:
    """Draw two different responses. Equally good ones, whose label is a coin flip, are mostly drawn again."""
    while True:
        first, second = _candidate(rng, prompt), _candidate(rng, prompt)
        tied = gold_quality(prompt, first) == gold_quality(prompt, second)
        if first != second and (not tied or rng.random() < 0.05):
            return first, second


def preference_pairs(rng: Random, split: Split, count: int) -> Iterator[Record]:
    """Draw pairs labelled by a noisy annotator (``preference_probability``)."""
    for _ in range(count):
        prompt = sample_prompt(rng, split)
        first, second = _two_candidates(rng, prompt)
        if rng.random() >= preference_probability(prompt, first, second):
            first, second = second, first
        yield {"prompt": prompt, "chosen": first, "rejected": second}


def anchored_prompts(rng: Random, split: Split, count: int) -> Iterator[Record]:
    """Draw prompts with the right answer as anchor."""
    for _ in range(count):
        prompt = sample_prompt(rng, split)
        yield {"prompt": prompt, "anchor": right_answer(prompt)}


def write_world(folder: Path, seed: int, sizes: WorldSizes = WorldSizes()) -> dict[str, Path]:
    """Write ``{demonstrations,pairs,prompts}.{train,validation}.jsonl``; returns their paths by name without suffix.

    Equal seeds give equal bytes. Every file has random numbers of its own, so that the size of one changes no other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"demonstrations": demonstrations, "pairs": preference_pairs, "prompts": anchored_prompts}
    paths: dict[str, Path] = {}
    for kind, make in makers.items():
        for split in SPLITS:
            name = f"{kind}.{split}"
            paths[name] = folder / f"{name}.jsonl"
            _write_jsonl(paths[name], make(Random(f"{seed}/{name}"), split, getattr(sizes, f"{split}_{kind}")))
    return paths


def _write_jsonl(path: Path, records: Iterable[Record]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
