"""SLiC against figures and identities that did not come from this repository."""

import pytest
import torch

from lightning_modules.preference_checks import check_needs, check_reference
from prl.config import ModelSource
from prl.objectives.preference import SLiC, evaluate
from tests.helpers.preference_figures import PAIRS, POLICY


def test_losses_are_those_of_other_implementations() -> None:
    """What TRL 1.16's DPOTrainer gave, `loss_type` hinge with beta 0.05."""
    assert evaluate(SLiC(), **PAIRS).tolist() == pytest.approx([0.950000, 1.035000], abs=1e-6)


def test_without_a_reference_sums_of_the_policy_are_compared() -> None:
    """By hand: sums -3 and -6, and -1.6 and -1.2."""
    assert evaluate(SLiC(with_reference=False), **POLICY).tolist() == pytest.approx([0.85, 1.02])
    with pytest.raises(ValueError, match="SLiC needs ref_chosen"):
        evaluate(SLiC(), **POLICY)


def test_a_run_loads_a_reference_where_it_is_read() -> None:
    for with_reference in (True, False):
        check_needs(SLiC(with_reference=with_reference))
    source = ModelSource(path="model")
    check_reference(SLiC(), source, source, "live")
    with pytest.raises(ValueError, match="reference is set, but SLiC needs no reference"):
        check_reference(SLiC(with_reference=False), source, source, "live")
    assert SLiC.needs_reference


def test_a_pair_is_let_be_once_its_margin_is_one() -> None:
    chosen = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    rejected, reference = torch.tensor([-3.1], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    loss = evaluate(SLiC(beta=0.5), [chosen], [rejected], [reference], [reference])
    assert loss.tolist() == [0.0]
    assert torch.autograd.grad(loss.sum(), [chosen])[0].tolist() == [0.0]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SLiC.beta is 0.0; expected a finite number above 0"):
        SLiC(beta=0.0)
