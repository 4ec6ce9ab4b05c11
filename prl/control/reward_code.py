"""Rewards of a control task as code that a language model wrote, run in a restricted process only."""

import math
import re
from typing import Any

from torch import Tensor

from prl.system.restricted import Limits, Outcome, run_code

LIMITS = Limits(cpu_seconds=20, wall_seconds=120.0, output_kib=4096)
"""Limits of one call, which is about all trajectories of a training step."""
_CALLS = """

def _prl_sums(states, actions):
    found = []
    for one, acted in zip(states, actions):
        sums = {}
        for before, action, after in zip(one, acted, one[1:]):
            parts = reward(list(before), list(action), list(after))
            for name, number in (parts if isinstance(parts, dict) else {"reward": parts}).items():
                sums[str(name)] = sums.get(str(name), 0.0) + float(number)
        found.append(sums)
    return found
"""
MOST_PARTS = 8
"""Components of a reward that are kept apart."""
LONGEST_NAME = 40
"""Characters of a component's name."""


class FaultyCodeError(ValueError):
    """Raised for code that gives no reward; its message is a line that its writer may read."""


def code_in(text: str) -> str:
    """Take the code out of an answer: its first block in fences, or all of it.

    Raises:
        FaultyCodeError: where it defines no function `reward`.
    """
    found = re.search(r"```(?:python|py)?[ \t]*\n(.*?)```", text, re.DOTALL)
    code = (found[1] if found else text).strip()
    if not re.search(r"^def reward\(", code, re.MULTILINE):
        raise FaultyCodeError("the answer has no function reward(state, action, next_state)")
    return code


def component_sums(code: str, states: Tensor, actions: Tensor) -> list[dict[str, float]]:
    """Sum each component of a reward over the steps of each trajectory.

    Args:
        code: defines `reward(state, action, next_state)`, which returns a number, or numbers by name.
        states: [N, T + 1, S].
        actions: [N, T, A].

    Returns:
        The sums by name, of N trajectories.

    Raises:
        FaultyCodeError: where the code fails, or gives anything else than finite numbers of the same names.
        RestrictedError: on a machine that cannot keep code from files and the network.
    """
    outcome: Outcome = run_code(code + _CALLS, "_prl_sums", [states.tolist(), actions.tolist()], LIMITS)
    if outcome.ending != "done":
        raise FaultyCodeError(f"{outcome.ending}: {outcome.reason}")
    return _checked(outcome.value, len(states))


def _checked(found: Any, count: int) -> list[dict[str, float]]:
    """Check what came out of the process, of which nothing is believed."""
    if not isinstance(found, list) or len(found) != count or not all(isinstance(each, dict) for each in found):
        raise FaultyCodeError(f"reward gave no numbers for {count} trajectories")
    names = found[0].keys()
    if not 1 <= len(names) <= MOST_PARTS or any(each.keys() != names for each in found):
        raise FaultyCodeError(f"reward is to have the same 1 to {MOST_PARTS} components in every step")
    if wrong := [name for name in names if len(name) > LONGEST_NAME or not name.isprintable()]:
        raise FaultyCodeError(f"{wrong[0][:LONGEST_NAME]!a} is no name of a component; use one word")
    for each in found:
        for name, number in each.items():
            if not isinstance(number, float) or not math.isfinite(number):
                raise FaultyCodeError(f"component {name[:40]!r} is {repr(number)[:40]}; expected a finite number")
    return found
