"""Preference objectives against the loss code of TRL 1.16 itself, values and gradients, where it is installed.

TRL's methods are called on a stand-in that has the attributes they read; a stand-in for each model gives the
log-probabilities of the figures. TRL is no dependency: `pip install trl==1.16.0` beside prl runs this.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prl.objectives.preference import (
    DNO,
    DPO,
    FDPO,
    LDDPO,
    RPO,
    SFTDPO,
    SPPO,
    PreferenceObjective,
    SimPO,
    SLiC,
    TriplePO,
    evaluate,
)
from tests.helpers.preference_figures import PAIRS, POLICY

pytestmark = pytest.mark.slow
VERSION = "1.16.0"
WIDTH = max(len(row) for rows in PAIRS.values() for row in rows)
NAMES = ("chosen", "rejected")


@pytest.fixture(scope="module", autouse=True)
def trl() -> Any:
    found = pytest.importorskip("trl")
    if found.__version__ != VERSION:
        pytest.skip(f"trl is {found.__version__}; the stand-ins have what {VERSION} reads")
    return found


def padded(rows: list[list[float]]) -> Tensor:
    """[rows, WIDTH] float32, 0 where there is no token, which is what TRL's models give there."""
    return torch.tensor([[*row, *[0.0] * (WIDTH - len(row))] for row in rows])


class Says(nn.Module):
    """A model that gives these log-probabilities, whatever it reads."""

    is_gradient_checkpointing = False

    def __init__(self, *sides: list[list[float]]) -> None:
        super().__init__()
        self.log_probs = nn.Parameter(torch.cat([padded(rows) for rows in sides]))

    def forward(self, **_: Any) -> SimpleNamespace:
        nothing = torch.zeros_like(self.log_probs)
        of_tokens = self.log_probs.masked_fill(self.log_probs == 0, 0)  # no gradient where there is no token
        return SimpleNamespace(log_probs=of_tokens, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def by_trl(pairs: slice = slice(None), **settings: Any) -> tuple[float, Tensor]:
    """Compute the loss of DPOTrainer and its gradients: [2 B, WIDTH], chosen first."""
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = {name: each[pairs] for name, each in PAIRS.items()}
    policy = Says(*(rows[name] for name in NAMES))
    lengths = [len(row) for name in NAMES for row in rows[name]]
    mask = (torch.arange(WIDTH + 1) <= torch.tensor(lengths)[:, None]) & (torch.arange(WIDTH + 1) > 0)
    defaults: dict[str, Any] = {
        **{"ld_alpha": None, "f_divergence_type": "reverse_kl", "loss_types": ["sigmoid"], "loss_weights": [1.0]},
        **{"aux_loss_enabled": False, "precompute_ref_logps": False, "use_weighting": False, "label_smoothing": 0.0},
    }
    accelerator = SimpleNamespace(
        device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x
    )
    trainer = SimpleNamespace(
        model=policy,
        ref_model=Says(*(rows[f"ref_{name}"] for name in NAMES)),
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics={mode: defaultdict(list) for mode in ("train", "eval")},
        _total_train_tokens=0,
        _tp_size=1,
        **{**defaults, **settings},
    )
    ids = mask.long()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": ids}
    loss = DPOTrainer._compute_loss(trainer, policy, inputs, return_outputs=False)
    (gradient,) = torch.autograd.grad(loss, [policy.log_probs])
    return loss.item(), gradient


def by_prl(objective: PreferenceObjective, pairs: slice = slice(None)) -> tuple[float, Tensor]:
    rows = {name: [torch.tensor(row) for row in each[pairs]] for name, each in PAIRS.items()}
    leaves = [row.requires_grad_() for name in NAMES for row in rows[name]]
    loss = evaluate(objective, **rows).mean()
    return loss.item(), padded([each.tolist() for each in torch.autograd.grad(loss, leaves)])


SAME = {
    "DPO": (DPO(0.1), {"beta": 0.1}),
    "DPO of another beta": (DPO(1.0), {"beta": 1.0}),
    "reverse KL": (FDPO(0.1, "reverse_kl"), {"beta": 0.1, "f_divergence_type": "reverse_kl"}),
    "forward KL": (FDPO(0.1, "forward_kl"), {"beta": 0.1, "f_divergence_type": "forward_kl"}),
    "Jensen-Shannon": (FDPO(0.1, "js"), {"beta": 0.1, "f_divergence_type": "js_divergence"}),
    **{
        f"alpha {alpha}": (
            FDPO(0.1, "alpha", alpha),
            {"beta": 0.1, "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1 - alpha},
        )
        for alpha in (0.3, 0.5, 0.7)
    },
    **{f"LD-DPO {alpha}": (LDDPO(0.1, alpha), {"beta": 0.1, "ld_alpha": alpha}) for alpha in (0.0, 0.5, 1.0)},
    "DNO-Prct": (DNO(0.1, win_rates="label"), {"beta": 0.1}),
    "hinge": (SLiC(0.05), {"beta": 0.05, "loss_types": ["hinge"]}),
}


@pytest.mark.parametrize("name", SAME)
def test_losses_and_gradients_are_those_of_trl(name: str) -> None:
    objective, settings = SAME[name]
    (found, gradient), (expected, of_trl) = by_prl(objective), by_trl(**settings)
    assert found == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(gradient, of_trl, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("objective", [RPO(0.5, 0.2, "average"), SFTDPO(0.5, 0.2)], ids=["RPO", "SFT-DPO"])
def test_the_supervised_term_is_that_of_trl_pair_by_pair(objective: PreferenceObjective) -> None:
    """TRL averages over the tokens of a batch, prl over those of each pair: 0.832063 and 0.833730 for both together."""
    settings: dict[str, Any] = {"beta": 0.5, "loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}
    for pair in (slice(0, 1), slice(1, 2)):
        (found, gradient), (expected, of_trl) = by_prl(objective, pair), by_trl(pair, **settings)
        assert found == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(gradient, of_trl, atol=1e-6, rtol=1e-5)
    assert by_prl(objective)[0] == pytest.approx(0.833730, abs=2e-6)
    assert by_trl(**settings)[0] == pytest.approx(0.832063, abs=2e-6)


@pytest.mark.parametrize(("beta", "gamma"), [(2.5, 1.375), (2.0, 0.5), (10.0, 3.0)])
def test_simpo_is_that_of_trl(beta: float, gamma: float) -> None:
    """With sure labels; a soft one is another thing there, as the docstring of SimPO says."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    leaves = {name: [torch.tensor(row, requires_grad=True) for row in POLICY[name]] for name in NAMES}
    settings = {"alpha": 0.0, "beta": beta, "simpo_gamma": gamma, "loss_type": "simpo", "label_smoothing": 0.0}
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **settings)
    means = (torch.stack([row.mean() for row in leaves[name]]) for name in NAMES)
    expected, *_ = CPOTrainer.cpo_loss(trainer, *means)
    found = evaluate(SimPO(beta, gamma), **leaves)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    rows = [row for name in NAMES for row in leaves[name]]
    for one, other in zip(*(torch.autograd.grad(each.sum(), rows) for each in (found, expected)), strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_sppo_with_sure_labels_is_half_of_that_of_trl(beta: float) -> None:
    (found, gradient), (expected, of_trl) = (
        by_prl(SPPO(beta, win_rates="label")),
        by_trl(beta=beta, loss_types=["sppo_hard"]),
    )
    assert 2 * found == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(2 * gradient, of_trl, atol=1e-6, rtol=1e-5)


class Logits(nn.Module):
    """A model of two tokens, 0 and 1, that gives 1 the log-probabilities of the figures, and 0 the rest."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.log_probs = nn.Parameter(padded(rows))
        self.training = True

    def forward(self, **_: Any) -> SimpleNamespace:
        given = self.log_probs.masked_fill(self.log_probs == 0, -1)
        logits = torch.stack([torch.log1p(-given.exp()), given], dim=-1)
        return SimpleNamespace(logits=torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1))


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (TriplePO(), {"beta": 0.01, "tpo_alpha": 1.0, "loss_type": "sigmoid"}),
        (TriplePO(2.0, 0.3, "TPO-L", 0.5), {"beta": 2.0, "tpo_alpha": 0.3, "loss_type": "tpo-l"}),
        (TriplePO(1.0, 0.0), {"beta": 1.0, "tpo_alpha": 0.0, "loss_type": "sigmoid"}),
    ],
)
def test_triple_po_is_that_of_trl_pair_by_pair(objective: PreferenceObjective, settings: dict[str, Any]) -> None:
    """TRL averages gold over the tokens of a batch, prl over those of each response."""
    from trl.experimental.tpo.tpo_trainer import TPOTrainer

    gold = [-0.4, -0.6, -0.8]
    rows = [POLICY["chosen"][0], POLICY["rejected"][0], *([gold] if objective.views[2:] else [])]
    model, lengths = Logits(rows), torch.tensor([len(row) for row in rows])
    mask = (torch.arange(WIDTH + 1) <= lengths[:, None]) & (torch.arange(WIDTH + 1) > 0)
    trainer = SimpleNamespace(
        **{"model": model, "label_smoothing": 0.0, "tpo_l_gamma": 0.5, "_total_train_tokens": 0, "_tp_size": 1},
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
        **settings,
    )
    inputs = {"input_ids": mask.long(), "attention_mask": torch.ones_like(mask), "completion_mask": mask.long()}
    expected = TPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    (of_trl,) = torch.autograd.grad(expected, [model.log_probs])
    leaves = {name: [torch.tensor(row, requires_grad=True)] for name, row in zip(objective.views, rows, strict=True)}
    loss = evaluate(objective, **leaves)
    torch.testing.assert_close(loss, expected[None].detach(), atol=1e-6, rtol=1e-6)
    for number, gradient in enumerate(torch.autograd.grad(loss.sum(), [each[0] for each in leaves.values()])):
        torch.testing.assert_close(gradient, of_trl[number, : len(rows[number])], atol=1e-6, rtol=1e-5)
