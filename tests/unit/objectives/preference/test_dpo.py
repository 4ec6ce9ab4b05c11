"""DPO against figures, formulas and identities that did not come from this repository."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DPO, PreferenceBatch, ScoredResponses, evaluate
from tests.helpers.preference_figures import PAIRS
from tests.helpers.records import ragged_mask


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # The first and the last row are also what TRL 1.16's DPOTrainer gave on these numbers, `loss_type` sigmoid.
        ({"beta": 0.1}, [0.644397, 0.728760]),
        ({"beta": 0.1, "label_smoothing": 0.1}, [0.654397, 0.721760]),
        ({"beta": 1.0}, [0.313262, 1.103186]),
    ],
)
def test_losses_are_those_of_other_implementations(settings: dict[str, float], expected: list[float]) -> None:
    assert evaluate(DPO(**settings), **PAIRS).tolist() == pytest.approx(expected, abs=1e-6)


def scores_from_values(policy: torch.Tensor, reference: torch.Tensor, lengths: list[int]) -> ScoredResponses:
    return ScoredResponses(policy, ragged_mask(lengths, policy.shape[1]), reference)


def random_batch(seed: int, target: torch.Tensor | None = None) -> tuple[PreferenceBatch, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    policy = [-3 * torch.rand(3, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    reference = [-3 * torch.rand(3, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    leaves = [each.requires_grad_() for each in policy]
    views = {
        name: scores_from_values(leaf, ref, lengths)
        for name, leaf, ref, lengths in zip(
            ("chosen", "rejected"), leaves, reference, ([5, 1, 3], [2, 4, 5]), strict=True
        )
    }
    return PreferenceBatch(views, torch.ones(3, dtype=torch.float64) if target is None else target), leaves


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_loss_and_gradients_equal_the_authors_code(seed: int, label_smoothing: float) -> None:
    """`preference_loss` of github.com/eric-mitchell/direct-preference-optimization, written out."""
    batch, leaves = random_batch(seed)
    sums = [
        (leaf * view.mask).sum(1) - (view.ref_logprobs * view.mask).sum(1)
        for leaf, view in zip(leaves, (batch.chosen, batch.rejected), strict=True)
        if view.ref_logprobs is not None
    ]
    logits = sums[0] - sums[1]
    expected = -F.logsigmoid(0.3 * logits) * (1 - label_smoothing) - F.logsigmoid(-0.3 * logits) * label_smoothing
    found = DPO(0.3, label_smoothing).loss(batch)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(each.sum(), leaves) for each in (found, expected)), strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other)


@given(beta=st.floats(0.01, 5), smoothing=st.sampled_from([0.0, 0.25]))
def test_at_the_reference_the_loss_is_ln_2_and_gradients_are_half_of_beta(beta: float, smoothing: float) -> None:
    policy = [torch.tensor([[-0.4, -2.0]], requires_grad=True), torch.tensor([[-1.0, -0.1]], requires_grad=True)]
    views = {
        name: scores_from_values(each, each.detach().clone(), [2])
        for name, each in zip(("chosen", "rejected"), policy, strict=True)
    }
    loss = DPO(beta, smoothing).loss(PreferenceBatch(views, torch.ones(1)))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    chosen, rejected = torch.autograd.grad(loss.sum(), policy)
    half = beta * (1 - 2 * smoothing) / 2
    assert chosen.tolist()[0] == pytest.approx([-half, -half], rel=1e-5)
    assert rejected.tolist()[0] == pytest.approx([half, half], rel=1e-5)


@given(shift=st.floats(-0.3, 0), smoothing=st.floats(0, 0.4), label=st.floats(0, 1))
def test_what_belongs_to_the_prompt_cancels(shift: float, smoothing: float, label: float) -> None:
    moved = {name: [[row[0] + shift, *row[1:]] for row in PAIRS[name]] for name in ("chosen", "rejected")}
    before, after = (evaluate(DPO(0.7, smoothing), **{**PAIRS, **each}, target=[label, label]) for each in ({}, moved))
    torch.testing.assert_close(after, before)


@given(label=st.floats(0, 1), smoothing=st.floats(0, 0.4))
def test_a_soft_label_is_the_share_of_each_side_and_a_swapped_pair_with_a_swapped_label_is_the_same(
    label: float, smoothing: float
) -> None:
    objective = DPO(0.5, smoothing)
    sure, wrong = (evaluate(objective, **PAIRS, target=[each, each]) for each in (1.0, 0.0))
    found = evaluate(objective, **PAIRS, target=[label, label])
    torch.testing.assert_close(found, label * sure + (1 - label) * wrong)
    turned = {"chosen": "rejected", "rejected": "chosen", "ref_chosen": "ref_rejected", "ref_rejected": "ref_chosen"}
    swapped = evaluate(objective, **{name: PAIRS[other] for name, other in turned.items()}, target=[1 - label] * 2)
    torch.testing.assert_close(swapped, found)


def test_the_implicit_reward_is_beta_times_the_log_ratio() -> None:
    batch, _ = random_batch(0)
    objective = DPO(0.25)
    margin = objective.reward(batch.chosen) - objective.reward(batch.rejected)
    torch.testing.assert_close(F.softplus(-margin), objective.loss(batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "DPO.beta is 0.0; expected a finite number above 0"),
        ({"beta": math.inf}, "DPO.beta is inf"),
        ({"label_smoothing": -0.1}, "DPO.label_smoothing is -0.1; expected at least 0 and below 0.5"),
        ({"label_smoothing": 0.5}, "DPO.label_smoothing is 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPO(**settings)
