"""ICPL: a language model writes rewards as code, policies are trained on them, and preferences say which is best.

In-context preference learning (2410.17233). K = 6, N = 5, the best and the worst code in the next prompt with the
curves of their components and the changes since the best one before, and faulty code asked for again are taken from a
summary of the paper, which was not at hand. That the best so far is ranked again in each round is ours, as are the
prompt, the task and the training.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from prl.control.environment import Environment, Policy, normalized, play, random_policy, returns
from prl.control.reward_code import FaultyCodeError, code_in, component_sums
from prl.control.reward_training import TrainingSettings, train_policy

Propose = Callable[[str], str]
"""A prompt -> the answer of a language model."""

TASK = (
    "A point moves in the square [-1, 1] x [-1, 1] for 40 steps. It should come to the place (0.5, 0.5) soon and stay "
    "there. A state is [x, y, vx, vy]; an action [ax, ay], each in [-1, 1], accelerates it.\n"
    "Write a Python function reward(state, action, next_state) of plain lists of numbers, with the standard library "
    "only. It returns the reward of a step: a number, or a dict of components by name, which are added up. Answer with "
    "one block of code."
)
"""Description of the control task for the language model."""


@dataclass(frozen=True)
class ICPLSettings:
    """Sizes of ICPL (2410.17233). Raises ValueError for a number out of range."""

    rounds: int = 5
    """Rounds (N)."""
    candidates: int = 6
    """Rewards that are written in each round (K)."""
    tries: int = 4
    """Answers for each reward; one that gives none is asked for again, so often in all."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """Training on each reward."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("candidates", 2), ("tries", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")


@dataclass(frozen=True)
class Candidate:
    """A reward and the policy that was trained on it."""

    round: int
    code: str
    policy: Policy
    curves: dict[str, list[float]]
    faults: tuple[str, ...] = ()
    """Faults of the answers before this one."""


Rank = Callable[[Sequence[Candidate]], list[int]]
"""Candidates -> their numbers, the preferred one first."""


@dataclass(frozen=True)
class Round:
    """What a round gave."""

    number: int
    prompt: str
    candidates: list[Candidate]
    best: Candidate
    """The best so far: it is ranked beside those of each later round, so that no round loses it."""
    worst: Candidate
    """The worst of this round's."""


def run_icpl(
    environment: Environment, propose: Propose, rank: Rank, settings: ICPLSettings, seed: int, task: str = TASK
) -> Iterator[Round]:
    """Write rewards, train on them, rank what was learnt, and ask again with the best and the worst; yields each round.

    Code is run in the restricted process alone. Code that fails, when it is tried or in training, is asked for again.

    Args:
        environment: the task, whose own reward nothing here reads.
        propose: the language model.
        rank: the preferences.
        settings: sizes.
        seed: of every draw in training; all candidates of a round begin alike.
        task: what the model is told.

    Raises:
        FaultyCodeError: when no answer to one of the requests was a reward, naming the last fault.
        RestrictedError: on a machine that cannot keep code from files and the network.
    """
    best: Candidate | None = None
    before: Candidate | None = None
    worst: Candidate | None = None
    for number in range(1, settings.rounds + 1):
        prompt = task if best is None or worst is None else next_prompt(task, best, worst, before)
        made = [
            _candidate(environment, propose, prompt, settings, number, seed + number)
            for _ in range(settings.candidates)
        ]
        shown = made if best is None else [*made, best]
        order = _checked(rank(shown), len(shown))
        before, best = best, shown[order[0]]
        worst = next(shown[place] for place in reversed(order) if shown[place] in made and shown[place] is not best)
        yield Round(number, prompt, made, best, worst)


def _checked(order: list[int], count: int) -> list[int]:
    if sorted(order) != list(range(count)):
        raise ValueError(f"the ranking is {order}; expected each of 0 to {count - 1} once, the preferred one first")
    return order


def _candidate(
    environment: Environment, propose: Propose, prompt: str, settings: ICPLSettings, number: int, seed: int
) -> Candidate:
    faults: list[str] = []
    for _ in range(settings.tries):
        asked = prompt if not faults else f"{prompt}\n\nAn answer before this one was of no use: {faults[-1]}"
        try:
            code = code_in(propose(asked))
            _try(environment, code, seed)
            trained = train_policy(environment, lambda *seen: component_sums(code, *seen), settings.training, seed)  # noqa: B023 - called at once
        except FaultyCodeError as error:
            faults.append(str(error))
            continue
        return Candidate(number, code, trained.policy, trained.curves, tuple(faults))
    raise FaultyCodeError(f"round {number}: {settings.tries} answers in a row gave no reward; the last: {faults[-1]}")


def _try(environment: Environment, code: str, seed: int) -> None:
    """Run code on two random trajectories before anything is trained on it."""
    draw = torch.Generator().manual_seed(seed)
    states, actions, _ = play(environment, random_policy(environment, seed), 2, draw)
    component_sums(code, states, actions[:, :-1])


# ---- what the model is told


def next_prompt(task: str, best: Candidate, worst: Candidate, before: Candidate | None) -> str:
    """Write the next round's prompt: the best and the worst code with their curves, and what is new in the best."""
    parts = [task, "This reward led to the behaviour that was liked best:", _shown(best)]
    if before is not None and before.code != best.code:
        lines = difflib.unified_diff(before.code.splitlines(), best.code.splitlines(), "before", "best", lineterm="")
        parts += ["What changed in it since the best one before:", "\n".join(lines)]
    parts += ["This reward led to the behaviour that was liked least:", _shown(worst)]
    parts += ["Write a better one. Keep what makes the first good, and avoid what makes the other bad."]
    return "\n\n".join(parts)


def _shown(candidate: Candidate) -> str:
    curves = [f"{name}: {', '.join(f'{each:.3g}' for each in curve)}" for name, curve in candidate.curves.items()]
    return "\n".join([f"```python\n{candidate.code}\n```", "Sums of its components in training:", *curves])


# ---- preferences


def true_return(environment: Environment, candidate: Candidate, episodes: int = 100, seed: int = 1000) -> float:
    """Play a candidate's policy, and put its mean return on the scale of `normalized`."""
    return normalized(environment, returns(environment, candidate.policy, episodes, seed), seed)


def by_return(environment: Environment, episodes: int = 100, seed: int = 1000) -> Rank:
    """Prefer the higher true return, as a person would who sees the task as it is meant; the earlier one of equals."""

    def rank(candidates: Sequence[Candidate]) -> list[int]:
        found = [true_return(environment, each, episodes, seed) for each in candidates]
        return sorted(range(len(found)), key=lambda number: -found[number])

    return rank
