"""A setting that changes nothing is impossible: every argument of every shipped method moves what it gives.

A new method is found by its file, and its settings are turned by their types; nothing is added here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from inspect import Parameter, signature
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import prl.advantages
import prl.objectives.policy
import prl.objectives.preference
import prl.objectives.reward
import prl.rewards.shapers
import prl.rollouts.filters
from prl.advantages.base import AdvantageEstimator, TokenRewards
from prl.objectives.policy.base import PolicyObjective, PolicyOutputs
from prl.objectives.preference import PreferenceObjective
from prl.objectives.reward import RewardObjective
from prl.plugins import methods_in
from prl.rewards.shapers.base import RewardShaper
from prl.rollouts.filters.base import RolloutFilter
from prl.types import PromptBatch, Rollout, Scores
from prl.verdict import Verdict
from tests.helpers.records import make_experience, pair_batch, preference_batch, ragged_mask

PROMPTS, PER_PROMPT, WIDTH = 6, 4, 12


class Case:
    """Rollouts with a little of everything: short and cut responses, equal and unequal rewards, siblings as anchors."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        torch.manual_seed(seed)
        rows = PROMPTS * PER_PROMPT
        ids = torch.ones(PROMPTS, 2, dtype=torch.long)
        turn = [({"role": "user", "content": "q"},)] * PROMPTS
        estimators = [method.values[0] for method in METHODS if method.values[1] is estimated]
        read = sorted({each for kind in estimators for each in kind.columns})
        columns = [{name: (number + 2 * place) % 5 / 4 for place, name in enumerate(read)} for number in range(PROMPTS)]
        batch = PromptBatch(ids, ids.bool(), turn, [("a", "b", "c")] * PROMPTS, columns).repeat(PER_PROMPT)
        self.mask = ragged_mask(torch.randint(1, WIDTH + 1, (rows,)).tolist(), WIDTH)
        texts = ["x" * int(length) for length in self.mask.sum(1)]
        guided = torch.arange(rows) % PER_PROMPT == PER_PROMPT - 1
        finished = torch.rand(rows) < 0.6
        self.rollout = Rollout(batch, self.mask.long(), self.mask, finished, texts, WIDTH, guided=guided)
        anchors = PER_PROMPT - 1  # as many as there are other responses to the prompt
        margins = 3 * torch.randn(2, anchors * rows)
        # Prompts whose rewards are all equal, nearly equal, and far apart.
        spread = torch.tensor([0.0, 1e-3, 0.2, 0.5, 1.0, 4.0])[batch.group]
        rewards = 0.3 + spread * torch.randn(rows)
        index = torch.arange(rows).repeat_interleave(anchors)
        # By the names that settings of sources are turned to, see `other_values`.
        names, generator = ("one", "other", "target", "target target"), torch.Generator().manual_seed(seed)
        # Above -1, for shapers that take logarithms.
        sources = dict(zip(names, 0.3 + spread * torch.randn(4, rows, generator=generator).abs(), strict=True))
        marks = torch.tensor([1.0, 0.0, torch.nan])[torch.randint(3, (rows, WIDTH))]
        self.scores = Scores(rewards, Verdict(margins[0], margins[1]), index, sources, step_marks=marks)
        old, ref, new, values = (torch.randn(rows, WIDTH).masked_fill(~self.mask, 0) for _ in range(4))
        self.signal = TokenRewards(rewards, None, old, ref, self.mask, 0.1, "k1")
        self.values, self.new = values, PolicyOutputs(old + 0.5 * new, torch.rand(rows, WIDTH))
        tensors = {"old_logprobs": old, "ref_logprobs": ref, "values": values, "advantages": torch.randn(rows, WIDTH)}
        experience = make_experience(self.mask, rewards=rewards, returns=torch.randn(rows, WIDTH), **tensors)
        self.experience = replace(experience, rollout=self.rollout)
        self.weights = self.mask / self.mask.sum()


def shaped(method: RewardShaper, case: Case) -> list[Tensor | None]:
    found = method(case.scores, case.rollout)
    return [found.rewards, found.token_rewards]


def estimated(method: AdvantageEstimator, case: Case) -> list[Tensor | None]:
    values = case.values if method.needs_critic else None
    return list(method(case.signal, case.scores, case.rollout, values))


def learnt(method: PolicyObjective, case: Case) -> list[Tensor | None]:
    logprobs = case.new.logprobs.clone().requires_grad_()
    loss = method(PolicyOutputs(logprobs, case.new.entropy), case.experience, case.weights).loss
    (gradient,) = torch.autograd.grad(loss, [logprobs])
    return [loss.detach(), gradient]


def weighed(method: RolloutFilter, case: Case) -> list[Tensor | None]:
    return [method.weights(case.rollout, case.scores)]


def paired(method: PreferenceObjective, case: Case) -> list[Tensor | None]:
    asked = torch.tensor(list(method.revision_prompt.encode()))  # decides what is read
    return [method.loss(preference_batch(method, case.seed)), asked]


def judged(method: RewardObjective, case: Case) -> list[Tensor | None]:
    numbers = [method.dropout_passes * method.dropout, method.look_ahead, method.unlabelled_prompts]
    asked = torch.tensor([*numbers, method.learns_observations])  # decide what is read
    ascended = method.ascended(case.scores.rewards) if method.look_ahead else None
    return [method.loss(pair_batch(method, case.seed)), asked, ascended]


SOCKETS: list[tuple[Any, type, Callable[[Any, Case], list[Tensor | None]]]] = [
    (prl.rewards.shapers, RewardShaper, shaped),
    (prl.advantages, AdvantageEstimator, estimated),
    (prl.objectives.policy, PolicyObjective, learnt),
    (prl.objectives.preference, PreferenceObjective, paired),
    (prl.objectives.reward, RewardObjective, judged),
    (prl.rollouts.filters, RolloutFilter, weighed),
]
METHODS = [
    pytest.param(kind, output, id=f"{package.__name__.removeprefix('prl.')}.{name}")
    for package, socket, output in SOCKETS
    for name, kind in methods_in(package.__name__, package.__path__, socket).items()
]
SETTINGS = [
    pytest.param(*method.values, parameter, id=f"{method.id}.{parameter.name}")
    for method in METHODS
    for parameter in signature(method.values[0]).parameters.values()
]


def other_values(kind: Any, given: Any) -> Iterator[Any]:
    """Values of a setting's type that differ from the one given."""
    if get_origin(kind) is Literal:
        yield from (each for each in get_args(kind) if each != given)
    elif isinstance(kind, UnionType):
        yield from (None,) if given is not None and type(None) in get_args(kind) else ()
        for each in get_args(kind):
            yield from other_values(each, given) if each is not type(None) else ()
    elif kind is PreferenceObjective:
        yield prl.objectives.preference.SLiC()
    elif kind is RewardObjective:
        yield prl.objectives.reward.BradleyTerry(0.2)
    elif get_origin(kind) is dict:
        yield from (each for each in ({"one": 1.0}, {"one": 1.0, "other": 0.5}) if each != given)
    elif kind is bool:
        yield not given
    elif kind is str:
        yield f"{given} {given}"
    elif kind is int:
        yield from (each for each in (1, 2, 3, 5, 9) if each != given)
    elif kind is float:
        yield from (each for each in (0.05, 0.3, 0.7, 1.0, 1.5, 3.0, 20.0) if each != given)


def default(parameter: Parameter) -> Any:
    return next(other_values(parameter.annotation, None)) if parameter.default is Parameter.empty else parameter.default


def moved(one: list[Tensor | None], other: list[Tensor | None]) -> bool:
    return any((a is None) != (b is None) or (a is not None and not torch.equal(a, b)) for a, b in zip(one, other))  # type: ignore[arg-type] # noqa: B905


@pytest.mark.parametrize(("kind", "output", "parameter"), SETTINGS)
def test_every_setting_of_a_method_moves_its_output(kind: type, output: Any, parameter: Parameter) -> None:
    given = {each.name: default(each) for each in signature(kind).parameters.values()}
    tried = []
    for value in other_values(parameter.annotation, given[parameter.name]):
        try:
            turned = kind(**{**given, parameter.name: value})
        except ValueError:
            continue  # out of its range
        tried.append(value)
        if any(moved(output(kind(**given), Case(seed)), output(turned, Case(seed))) for seed in range(3)):
            return
    raise AssertionError(f"{parameter.name} of {kind.__name__} changes nothing, whichever of {tried} it is")


@pytest.mark.parametrize(("kind", "output", "parameter"), SETTINGS)
def test_every_setting_of_a_method_is_documented(kind: type, output: Any, parameter: Parameter) -> None:
    assert f"        {parameter.name}: " in (kind.__doc__ or "")


@pytest.mark.parametrize("method", prl.objectives.preference.METHODS.values())
@given(seed=st.integers(0, 1000))
def test_a_loss_belongs_to_each_pair_and_padding_to_none(method: type, seed: int) -> None:
    objective: Any = method(**{each.name: default(each) for each in signature(method).parameters.values()})
    losses = objective.loss(preference_batch(objective, seed))
    assert losses.shape == (6,)
    assert torch.isfinite(losses).all()
    torch.testing.assert_close(objective.loss(preference_batch(objective, seed, padding=3)), losses)
    assert objective.reward(preference_batch(objective, seed).chosen).shape == (6,)


@pytest.mark.parametrize("method", prl.objectives.reward.METHODS.values())
def test_a_loss_of_a_judge_belongs_to_each_pair(method: type) -> None:
    objective: Any = method(**{each.name: default(each) for each in signature(method).parameters.values()})
    losses = objective.loss(pair_batch(objective, 0))
    assert losses.shape == (6,)
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize(("kind", "output"), METHODS)
def test_a_method_gives_the_same_for_the_same(kind: type, output: Any) -> None:
    given = {each.name: default(each) for each in signature(kind).parameters.values()}
    assert not moved(output(kind(**given), Case(0)), output(kind(**given), Case(0)))


@pytest.mark.parametrize(("kind", "output"), METHODS)
def test_what_lies_outside_the_mask_does_not_count(kind: type, output: Any) -> None:
    """Tokens that were not sampled have log-probabilities and values too; nothing may read them."""
    given = {each.name: default(each) for each in signature(kind).parameters.values()}
    case, other = Case(0), Case(0)
    for tensor in (other.signal.logprobs, other.signal.ref_logprobs, other.values):
        tensor[~other.mask] = 1e3
    found, again = output(kind(**given), case), output(kind(**given), other)
    for one, two in zip(found, again, strict=True):
        if one is not None and two is not None and one.shape == case.mask.shape:
            assert torch.equal(one[case.mask], two[case.mask])
        elif one is not None:
            assert two is not None
            assert torch.equal(one, two)
