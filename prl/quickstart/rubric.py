"""Rubrics of the quickstart world: criteria that code writes for each prompt, and code that grades them.

    python -m prl.quickstart.rubric runs/quickstart/world

writes `rubrics.{train,validation}.jsonl` beside the prompts, with a column `rubric`. The fact is the answer, which the
file has as an anchor; the other criteria are what the world's qualities are made of: length, places, order, case.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prl.quickstart.world import SPLITS, right_answer
from prl.types import Conversation

_CHECKS: dict[str, Callable[..., bool]] = {
    r"is (\S+)": lambda response, answer: response == answer,
    r"has (\d+) characters": lambda response, count: len(response) == int(count),
    r"has (\S) at place (\d+)": lambda response, sign, place: response[int(place) - 1 :][:1] == sign,
    r"has its letters in order": lambda response: response != "" and list(response) == sorted(response),
    r"is in capitals": lambda response: response.isupper(),
    r"is a number": lambda response: re.fullmatch(r"0|[1-9][0-9]*", response) is not None,
}
"""How a criterion reads -> whether a response meets it."""

_OF_FAMILY = {"sort": "has its letters in order", "upper": "is in capitals", "add": "is a number"}


def rubric_of(prompt: str) -> list[dict[str, Any]]:
    """Write the criteria of a prompt: its answer as the one fact, and what makes other responses better or worse."""
    answer, family = right_answer(prompt), prompt.partition(" ")[0]
    others = [f"has {len(answer)} characters"]
    others += [f"has {sign} at place {place}" for place, sign in enumerate(answer, 1)]
    others += [_OF_FAMILY[family]] if family in _OF_FAMILY else []
    fact = {"criterion": f"is {answer}", "weight": 3.0, "factual": True}
    return [fact, *({"criterion": each, "weight": 1.0, "factual": False} for each in others)]


def holds(prompt: Conversation, response: str, criterion: str, row: dict[str, Any]) -> bool | None:
    """Tell whether a response meets a criterion of `rubric_of`; None for a criterion of another kind."""
    for pattern, check in _CHECKS.items():
        if found := re.fullmatch(pattern, criterion):
            return check(response, *found.groups())
    return None


def write_rubrics(world: Path) -> list[Path]:
    """Write the prompts of a world with their rubrics; return the paths.

    Raises:
        FileNotFoundError: where there is no world.
    """
    paths = []
    for split in SPLITS:
        rows = map(json.loads, (world / f"prompts.{split}.jsonl").read_text(encoding="utf-8").splitlines())
        paths.append(world / f"rubrics.{split}.jsonl")
        with paths[-1].open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps({**row, "rubric": rubric_of(row["prompt"])}) + "\n" for row in rows)
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m prl.quickstart.rubric WORLD, as runs/quickstart/world")
    write_rubrics(Path(sys.argv[1]))
