"""SPO against figures and identities that did not come from this repository."""

import math
from typing import Any

import pytest
import torch

from prl.objectives.preference import DPO, SPO, TGDPO, VPO, PreferenceObjective, SimPO, evaluate
from tests.helpers.preference import Counting
from tests.helpers.preference_figures import PAIRS
from tests.helpers.records import preference_batch

PAIR: dict[str, Any] = {name: rows[:1] for name, rows in PAIRS.items()}
CORRUPTED: dict[str, Any] = {
    f"{model}corrupted_{side}": [[-0.4, -0.9, -0.2][: 2 + (side == "rejected")]]
    for model in ("", "ref_")
    for side in ("chosen", "rejected")
}


def degrees(chosen: list[float], rejected: list[float]) -> dict[str, Any]:
    """Say something of the end token's state, and of earlier ones what would change the loss."""
    other = [9.0, -9.0, 9.0, 0.0]
    return {
        "degree_corrupted_chosen": [[other, chosen]],
        "degree_corrupted_rejected": [[other, other, rejected]],
    }


def test_the_loss_of_the_sheet() -> None:
    told = degrees([2.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0])
    levels: dict[str, Any] = {"level_chosen": [0], "level_rejected": [1]}
    found = evaluate(SPO(), **PAIR, **CORRUPTED, **told, **levels)
    assert found.tolist() == pytest.approx([0.734847], abs=1e-6)
    only_ce = evaluate(SPO(weight=1.0), **PAIR, **CORRUPTED, **told, **levels) - evaluate(DPO(), **PAIR)
    assert only_ce.tolist() == pytest.approx([0.277978 + 0.626523], abs=1e-6)


def test_a_head_that_says_nothing_is_at_the_logarithm_of_the_levels() -> None:
    for levels in (2, 4):
        given = degrees([0.0] * levels, [0.0] * levels)
        given = {name: [[[0.0] * levels for _ in row] for row in rows] for name, rows in given.items()}
        found = evaluate(
            SPO(weight=1.0, levels=levels), **PAIR, **CORRUPTED, **given, level_chosen=[1], level_rejected=[0]
        )
        assert (found - evaluate(DPO(), **PAIR)).tolist() == pytest.approx([2 * math.log(levels)], abs=1e-12)


@pytest.mark.parametrize(
    "inner", [DPO(0.3), SimPO(), TGDPO(), VPO(optimistic=True)], ids=lambda each: type(each).__name__
)
def test_without_weight_it_is_the_other_objective_to_the_last_bit(inner: PreferenceObjective) -> None:
    objective = SPO(inner, weight=0.0)
    assert (objective.needs_reference, objective.guides) == (inner.needs_reference, inner.guides)
    assert (objective.views, objective.heads, objective.columns) == (inner.views, {}, inner.columns)
    batch = preference_batch(objective, seed=3)
    found = []
    for each in (objective, inner):
        leaves = [view.logprobs.clone().requires_grad_() for view in batch.views.values()]
        for view, leaf in zip(batch.views.values(), leaves, strict=True):
            object.__setattr__(view, "logprobs", leaf)
        losses = each.loss(batch)
        found.append((losses, *torch.autograd.grad(losses.sum(), leaves, allow_unused=True), each.reward(batch.chosen)))
    for one, two in zip(*found, strict=True):
        assert one is two is None or torch.equal(one, two)


def test_it_needs_what_the_other_objective_needs_and_keeps_its_state() -> None:
    objective = SPO(VPO(optimistic=True), levels=3)
    assert objective.views == ("chosen", "rejected", "calibration", "corrupted_chosen", "corrupted_rejected")
    assert (objective.heads, objective.classes) == ({"degree": 3}, {"level_chosen": 3, "level_rejected": 3})
    assert SPO.heads == {}
    counting = SPO(Counting())
    counting.load_state_dict({"beta": 0.7})
    assert counting.state_dict() == {"beta": 0.7} == counting.objective.state_dict()  # type: ignore[attr-defined]
    assert SPO().state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -0.1}, "SPO.weight is -0.1; expected a finite number of at least 0"),
        ({"levels": 1}, "SPO.levels is 1; expected at least 2"),
        ({"objective": SPO()}, "SPO.objective is SPO, which reads corrupted responses itself"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPO(**settings)


def test_levels_and_what_heads_say_are_checked() -> None:
    told = degrees([0.0] * 4, [0.0] * 4)
    short = {**told, "degree_corrupted_chosen": [[[0.0] * 4]]}
    only = {"degree_corrupted_chosen": told["degree_corrupted_chosen"]}
    with pytest.raises(ValueError, match=r"level_rejected holds \[4.0\]; expected whole numbers from 0 to 3"):
        evaluate(SPO(), **PAIR, **CORRUPTED, **told, level_chosen=[0], level_rejected=[4])
    with pytest.raises(ValueError, match="SPO needs degree_chosen .of this or another view, what it reads of states"):
        evaluate(SPO(), **PAIR, **CORRUPTED, level_chosen=[0], level_rejected=[3])
    with pytest.raises(ValueError, match=r"corrupted_chosen\[0\] has 2 tokens and degree_corrupted_chosen\[0\] 1"):
        evaluate(SPO(), **PAIR, **CORRUPTED, **short, level_chosen=[0], level_rejected=[3])
    with pytest.raises(ValueError, match="there is no 'degree' of these responses; .* declares it with heads"):
        evaluate(SPO(), **PAIR, **CORRUPTED, **only, level_chosen=[0], level_rejected=[3])
