"""Triple preference optimisation against figures and identities that did not come from this repository."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import TriplePO, evaluate
from tests.helpers.preference_figures import POLICY

FIRST = {name: rows[:1] for name, rows in POLICY.items()}
GOLD = {"gold": [[-0.4, -0.6, -0.8]]}
SUMS, MEANS = ([-3.0, -1.6], [-6.0, -1.2]), ([-0.75, -0.8], [-1.0, -0.4])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [  # what TRL 1.16's TPOTrainer gave, `loss_type` sigmoid and tpo-l
        ({"beta": 0.01}, 1.278260),
        ({"beta": 2.0, "form": "TPO-L", "gamma": 0.5}, 1.293147),
        ({"beta": 0.01, "form": "TPO-L", "gamma": 0.5}, 1.572522),
    ],
)
def test_losses_are_those_of_trl(settings: dict, expected: float) -> None:
    assert evaluate(TriplePO(**settings), **FIRST, **GOLD).tolist() == pytest.approx([expected], abs=1e-6)


@given(beta=st.floats(0.01, 3), gamma=st.floats(0, 3), label=st.floats(0, 1), form=st.sampled_from(["TPO", "TPO-L"]))
def test_without_gold_it_is_a_logistic_loss_on_sums_or_means(
    beta: float, gamma: float, label: float, form: str
) -> None:
    """TPO-L is SimPO then."""
    objective = TriplePO(beta, 0.0, form, gamma)  # type: ignore[arg-type]
    chosen, rejected = (torch.tensor(each, dtype=torch.float64) for each in (SUMS if form == "TPO" else MEANS))
    lead = beta * (chosen - rejected)
    expected = -label * F.logsigmoid(lead - gamma) - (1 - label) * F.logsigmoid(-lead - gamma)
    torch.testing.assert_close(evaluate(objective, **POLICY, target=[label, label]), expected)


def test_without_weight_no_gold_is_read_and_no_reference_ever() -> None:
    assert TriplePO(alpha=0).views == ("chosen", "rejected")
    assert TriplePO().views == ("chosen", "rejected", "gold")
    assert not TriplePO().needs_reference
    with pytest.raises(ValueError, match="TriplePO reads no 'gold'"):
        evaluate(TriplePO(alpha=0), **FIRST, **GOLD)


@given(alpha=st.floats(0.01, 5), label=st.floats(0, 1))
def test_gold_is_learnt_by_its_mean_whatever_the_label(alpha: float, label: float) -> None:
    gold = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in GOLD["gold"]]
    loss = evaluate(TriplePO(alpha=alpha), **FIRST, gold=gold, target=[label])
    (gradient,) = torch.autograd.grad(loss.sum(), gold)
    assert gradient.tolist() == pytest.approx([-alpha / 3] * 3)
    without = evaluate(TriplePO(alpha=0), **FIRST, target=[label])
    torch.testing.assert_close(loss, without + alpha * 0.6)


@pytest.mark.parametrize("form", ["TPO", "TPO-L"])
def test_the_implicit_reward_is_what_the_loss_compares(form: str) -> None:
    rewards = {}

    class Watched(TriplePO):
        def loss(self, batch):
            rewards.update({name: self.reward(view) for name, view in batch.views.items()})
            return super().loss(batch)

    found = evaluate(Watched(0.7, 0.0, form), **POLICY)  # type: ignore[arg-type]
    torch.testing.assert_close(found, F.softplus(rewards["rejected"] - rewards["chosen"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "TriplePO.beta is 0.0; expected a finite number above 0"),
        ({"alpha": -1.0}, "TriplePO.alpha is -1.0; expected a finite number of at least 0"),
        ({"gamma": math.inf}, "TriplePO.gamma is inf"),
        ({"form": "tpo_l"}, "TriplePO.form is 'tpo_l'; expected TPO or TPO-L"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TriplePO(**settings)
