"""Losses from lists of log-probabilities, and what is said when they do not fit together."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prl.objectives.preference import PreferenceBatch, PreferenceObjective, evaluate

CHOSEN, REJECTED = [[-1.0, -2.0], [-0.5]], [[-3.0], [-0.25, -0.25, -0.5]]
REF_CHOSEN, REF_REJECTED = [[-0.5, -0.5], [-1.5]], [[-1.0], [-1.0, -1.0, -2.0]]


class Differences(PreferenceObjective):
    """Difference of the log-ratios, without a model easy to follow."""

    def loss(self, batch: PreferenceBatch) -> Tensor:
        return batch.target * (batch.rejected.log_ratio() - batch.chosen.log_ratio())


class WithoutReference(PreferenceObjective):
    """Mean log-probabilities and two things of the data."""

    needs_reference = False
    views = ("chosen", "rejected", "gold")
    columns = ("margin",)

    def loss(self, batch: PreferenceBatch) -> Tensor:
        difference = batch.rejected.mean_logprob() - batch.chosen.mean_logprob()
        return difference + batch.columns["margin"] - batch.views["gold"].logprob()


def test_losses_are_those_of_each_pair() -> None:
    found = evaluate(Differences(), CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
    assert found.dtype == torch.float64
    assert found.tolist() == [0.0, 2.0]  # -2 - (-2), 3 - 1
    assert evaluate(Differences(), CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, target=[1.0, 0.5]).tolist() == [0.0, 1.0]


def test_columns_and_further_views_are_given_by_name() -> None:
    found = evaluate(WithoutReference(), CHOSEN, REJECTED, margin=[1, 2], gold=[[-4.0], [-1.0, -1.0]])
    assert found.tolist() == pytest.approx([-1.5 + 1 + 4, (-1 / 3 + 0.5) + 2 + 2])


def test_tensors_keep_their_type_and_get_gradients() -> None:
    chosen = [torch.tensor(row, requires_grad=True) for row in CHOSEN]
    loss = evaluate(Differences(), chosen, REJECTED, REF_CHOSEN, REF_REJECTED)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert [row.grad.tolist() for row in chosen if row.grad is not None] == [[-1.0, -1.0], [-1.0]]


class WithLists(PreferenceObjective):
    """Sums over the responses of a list, each with its number."""

    lists = {"answers": ("scores_of", "rates_of")}

    def loss(self, batch: PreferenceBatch) -> Tensor:
        present = batch.present("answers")
        ratios = batch.views["answers"].log_ratio().view(present.shape)
        return (ratios * batch.columns["scores_of"] + present * batch.columns["rates_of"]).sum(1)


LISTS: dict[str, Any] = {
    "answers": [[[-1.0, -1.0], [-3.0], [-2.0]], [[-4.0]]],
    "ref_answers": [[[-1.5, -1.5], [-1.0], [-2.0]], [[-3.0]]],
    "scores_of": [[1, 2, 3], [4]],
    "rates_of": [[0.5, 0.25, 0.125], [1]],
}


def test_a_list_may_have_another_length_in_each_row() -> None:
    found = evaluate(WithLists(), CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, **LISTS)
    assert found.tolist() == [1.0 - 4.0 + 0.875, -4.0 + 1]
    answers = [[torch.tensor(row, requires_grad=True) for row in some] for some in LISTS["answers"]]
    found = evaluate(WithLists(), CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, **{**LISTS, "answers": answers})
    assert found.dtype == torch.float32
    found.sum().backward()
    assert [[each.grad.tolist() for each in some if each.grad is not None] for some in answers] == [
        [[1.0, 1.0], [2.0], [3.0]],
        [[4.0]],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates_of": None}, r"WithLists needs rates_of \(a column or view that it declares\)"),
        ({"ref_answers": None}, r"WithLists needs ref_answers \(its reference\)"),
        (
            {"scores_of": [[1, 2], [4]]},
            r"scores_of has lists of \[2, 1\] numbers; expected \[3, 1\], one for each resp",
        ),
        ({"ref_answers": [[[-1.0]], [[-3.0]]]}, r"answers has lists of \[3, 1\] responses and ref_answers of \[1, 1\]"),
        (
            {"answers": [[], [[-4.0]]]},
            r"answers has lists of \[0, 1\] responses; expected one, not empty, for each of 2",
        ),
        (
            {"answers": [[[-4.0]]]},
            r"answers has lists of \[1\] responses; expected one, not empty, for each of 2 pairs",
        ),
        ({"other": [[1]]}, "reads no 'other'; .* declares: answers, scores_of, rates_of"),
    ],
)
def test_lists_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(WithLists(), CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, **{**LISTS, **change})


GOOD: dict[str, Any] = {"chosen": CHOSEN, "rejected": REJECTED, "ref_chosen": REF_CHOSEN, "ref_rejected": REF_REJECTED}
REFUSED = {
    "another length": ({"ref_rejected": [[-1.0], [-1.0]]}, r"rejected\[1\] has 3 tokens and ref_rejected\[1\] 1; both"),
    "other rows of the reference": ({"ref_chosen": [[-1.0, -1.0]]}, "chosen has 2 rows and ref_chosen 1; expected as"),
    "other rows": ({"rejected": [[-1.0]], "ref_rejected": [[-1.0]]}, "view 'rejected' has 1 responses for 2 pairs"),
    "no reference": ({"ref_rejected": None}, r"Differences needs ref_rejected \(its reference\), which is not given"),
    "a column of another method": ({"margin": [1, 2]}, "Differences reads no 'margin'; .* that it declares: none"),
    "a probability": ({"chosen": [[-1.0, 0.3], [-0.5]]}, r"chosen\[0\] holds 0.3 at token 1; expected a log-probabi"),
    "no number": ({"rejected": [[math.nan], [-1.0] * 3]}, r"rejected\[0\] holds nan at token 0; expected a log-prob"),
    "no probability": ({"chosen": [[-math.inf, -1.0], [-1.0]]}, r"chosen\[0\] holds -inf at token 0"),
    "an empty response": ({"chosen": [[], [-0.5]]}, r"chosen\[0\] has shape \(0,\); expected a number for each token"),
    "no rows": ({"chosen": []}, "chosen holds no rows; expected at least one"),
    "two types": (
        {"chosen": [torch.zeros(2).double(), torch.zeros(1)]},
        r"types \['torch.float32', 'torch.float64'\]; give one type",
    ),
    "labels of one pair": ({"target": [1.0]}, r"target has shape \(1,\); expected a number for each of 2 pairs"),
    "a label above one": ({"target": [1.0, 1.5]}, r"target holds \[1.0, 1.5\]; expected probabilities from 0 to 1"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Differences(), **{**GOOD, **change})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gold": CHOSEN}, r"WithoutReference needs margin \(a column or view that it declares\), which is not given"),
        ({"margin": [1, 2]}, "WithoutReference needs gold"),
        ({"margin": [1], "gold": CHOSEN}, r"margin has shape \(1,\); expected a number for each of 2 pairs"),
        ({"margin": [1, 2], "gold": CHOSEN, "score": [1, 2]}, "reads no 'score'; .* declares: gold, margin"),
    ],
)
def test_what_a_method_declares_has_to_be_given(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(WithoutReference(), CHOSEN, REJECTED, **given)
