"""Directions in the space of attributes, drawn for each prompt and told to the policy in it (DPA, 2402.18571)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from prl.data.rows.records import AnchoredPrompt, Demonstration
from prl.types import Conversation

Asked = TypeVar("Asked", AnchoredPrompt, Demonstration)
"""A record with a prompt and further columns."""

COLUMN = "direction"
"""Column of a prompt with its direction: the weight of each attribute by name."""
PROMPT = "prompt"
"""Placeholder of a template for the text of the last user turn."""
_PLACEHOLDER = re.compile(r"\{([\w-]+)\}")


@dataclass(frozen=True)
class Directions:
    """A unit vector for each prompt, which the prompt tells the policy and by which its responses are rewarded.

    The prompt has round(100 v) of the vector v, as the authors' README does; the reward has v itself, in the column
    `direction` of the row. Neither the paper's distribution of directions nor its number of samples and of rounds could
    be looked up: a uniform angle is this library's choice.

    Raises:
        ValueError: for attributes without names of their own, angles in no order, or an unknown placeholder.
    """

    attributes: list[str]
    """Names of the attributes; those of the heads under `MultiHead`."""
    angles: tuple[float, float] = (-45.0, 45.0)
    """Range of the angle to the first attribute, degrees. With two attributes v = (cos a, sin a); with more, the second
    part is spread over the others as a normalised draw from a Gaussian."""
    template: str | None = None
    """Text with {NAME} for the weight of each attribute. With {prompt} it takes the place of the last user turn, whose
    text {prompt} is; without, it is a system message. Names and weights as a sum when null."""

    def __post_init__(self) -> None:
        names = self.attributes
        if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
            raise ValueError(
                f"directions.attributes is {names}; expected different names of letters, digits, _ and - for each"
            )
        if PROMPT in names:
            raise ValueError(f"directions.attributes has {PROMPT!r}, a placeholder of the template; name it otherwise")
        low, high = self.angles
        if not -90 <= low <= high <= 90:
            raise ValueError(f"directions.angles is {[low, high]}; expected two of -90 to 90 degrees, in order")
        for found in _PLACEHOLDER.findall(self.text):
            if found not in (*names, PROMPT):
                raise ValueError(
                    f"directions.template has {{{found}}}; expected names of attributes ({', '.join(names)}) or "
                    f"{PROMPT}"
                )
        if missing := [name for name in names if f"{{{name}}}" not in self.text]:
            raise ValueError(f"directions.template has no {{{missing[0]}}}, so the policy could not know its weight")

    @property
    def text(self) -> str:
        """The template, or the one that is used without."""
        weighed = " + ".join(f"{name}*{{{name}}}" for name in self.attributes)
        return f"Respond so that {weighed} is large." if self.template is None else self.template

    def draw(self, rng: Random) -> tuple[float, ...]:
        """Draw a unit vector, one number for each attribute."""
        further = len(self.attributes) - 1
        if further == 0:
            return (1.0,)
        angle = math.radians(rng.uniform(*self.angles))
        if further == 1:
            return math.cos(angle), math.sin(angle)
        drawn = [rng.gauss(0, 1) for _ in range(further)]
        length = math.hypot(*drawn)
        return math.cos(angle), *(math.sin(angle) * each / length for each in drawn)

    def ask(self, records: Sequence[Asked], seed: int) -> list[Asked]:
        """Tell each prompt a direction of its own, and keep it in the prompt's column `direction`.

        Args:
            records: the prompts, or demonstrations.
            seed: of the draws, beside the number of the prompt.

        Raises:
            ValueError: for a prompt that has such a column already, or no user turn where the template needs one.
        """
        asked = []
        for number, record in enumerate(records):
            if COLUMN in record.extra:
                raise ValueError(
                    f"prompt {number + 1} has a column {COLUMN!r}, in which its drawn direction is kept; rename it "
                    "in the file, or take it out"
                )
            direction = self.draw(Random(f"{seed}/{number}/direction"))
            named = dict(zip(self.attributes, direction, strict=True))
            prompt = self.told(record.prompt, direction)
            asked.append(replace(record, prompt=prompt, extra={**record.extra, COLUMN: named}))
        return asked

    def told(self, prompt: Conversation, direction: Sequence[float]) -> Conversation:
        """Write a direction into a prompt.

        Args:
            prompt: turns that end in one of the user.
            direction: weight of each attribute.
        """
        numbers = (str(weight) for weight in integer_weights(direction))
        values = dict(zip(self.attributes, numbers, strict=True))
        at = max((n for n, message in enumerate(prompt) if message["role"] == "user"), default=None)
        turns = [dict(message) for message in prompt]
        if f"{{{PROMPT}}}" not in self.text:
            text = _filled(self.text, values)
            if turns and turns[0]["role"] == "system":
                turns[0]["content"] += f"\n{text}"
                return turns
            return [{"role": "system", "content": text}, *turns]
        if at is None:
            raise ValueError("directions.template has {prompt}, and a prompt has no user turn; leave {prompt} out")
        turns[at]["content"] = _filled(self.text, {**values, PROMPT: turns[at]["content"]})
        return turns


def integer_weights(direction: Sequence[float]) -> tuple[int, ...]:
    """Round 100 times a vector to whole numbers, as a prompt tells them."""
    return tuple(round(100 * weight) for weight in direction)


def _filled(template: str, values: dict[str, str]) -> str:
    """Put values in the place of their names; what they hold is not looked at again."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)
