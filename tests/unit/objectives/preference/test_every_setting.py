"""What holds for every shipped preference objective, found as configs find it: no setting is without effect."""

import inspect
import types
import typing
from typing import Any, Literal, Union

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.objectives.preference import METHODS, PreferenceBatch, PreferenceObjective, ScoredResponses
from tests.helpers.records import ragged_mask

PAIRS = 6
FIELDS = [
    (name, parameter.name)
    for name, method in METHODS.items()
    for parameter in inspect.signature(method).parameters.values()
]


def batch_for(objective: PreferenceObjective, seed: int, padding: int = 0) -> PreferenceBatch:
    """Random log-probabilities, soft labels, and what the objective declares; `padding` holds anything."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def padded(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, padding), value=float("nan"))

    views = {}
    for name in objective.views:
        lengths = torch.randint(1, 9, (PAIRS,), generator=generator).tolist()
        policy, reference = (-2 * numbers(PAIRS, max(lengths)) for _ in range(2))
        mask = ragged_mask(lengths, max(lengths) + padding)
        views[name] = ScoredResponses(padded(policy), mask, padded(reference) if objective.needs_reference else None)
    target, columns = numbers(PAIRS), {name: numbers(PAIRS) for name in objective.columns}
    return PreferenceBatch(views, target, columns)


def others(annotation: Any, value: Any) -> list[Any]:
    """Other values of a setting, the nearest first."""
    if typing.get_origin(annotation) is Literal:
        return [each for each in typing.get_args(annotation) if each != value]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        kinds = [each for each in typing.get_args(annotation) if each is not type(None)]
        return [each for kind in kinds for each in others(kind, value)]
    if annotation is bool:
        return [not value]
    assert annotation in (int, float), f"a setting of the type {annotation}: say here which values it has"
    start = value if isinstance(value, int | float) else 0
    return [annotation(each) for each in (start * 2, start / 2, start + 0.25, start + 1, 0.75, 2) if each != value]


def defaults(method: type) -> dict[str, Any]:
    """Return settings as they are, and the first possible value of those that have no default."""
    found = {}
    for each in inspect.signature(method).parameters.values():
        has_default = each.default is not inspect.Parameter.empty
        found[each.name] = each.default if has_default else others(each.annotation, None)[0]
    return found


def losses_with(method: Any, settings: dict[str, Any]) -> Tensor | None:
    """Losses of some batches; None for settings that are refused."""
    try:
        objective = method(**settings)
    except ValueError:
        return None
    return torch.cat([objective.loss(batch_for(objective, seed)) for seed in range(4)])


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_setting_moves_the_loss(name: str, field: str) -> None:
    method, settings = METHODS[name], defaults(METHODS[name])
    before = losses_with(method, settings)
    assert before is not None
    annotation = typing.get_type_hints(method.__init__)[field]
    tried = [losses_with(method, {**settings, field: value}) for value in others(annotation, settings[field])]
    allowed = [after for after in tried if after is not None]
    assert allowed, f"no other value of {name}.{field} is accepted"
    assert any(not torch.equal(after, before) for after in allowed), f"{name}.{field} changes nothing"


def test_there_are_methods_and_settings() -> None:
    assert ("DPO", "beta") in FIELDS
    assert ("DPO", "label_smoothing") in FIELDS


@pytest.mark.parametrize("name", METHODS)
@given(seed=st.integers(0, 1000))
def test_a_loss_belongs_to_each_pair_and_padding_to_none(name: str, seed: int) -> None:
    objective = METHODS[name](**defaults(METHODS[name]))
    losses = objective.loss(batch_for(objective, seed))
    assert losses.shape == (PAIRS,)
    assert torch.isfinite(losses).all()
    torch.testing.assert_close(objective.loss(batch_for(objective, seed, padding=3)), losses)
    assert objective.reward(batch_for(objective, seed).chosen).shape == (PAIRS,)


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_documented(name: str) -> None:
    described = METHODS[name].__doc__ or ""
    assert [field for method, field in FIELDS if method == name and f"        {field}: " not in described] == []
