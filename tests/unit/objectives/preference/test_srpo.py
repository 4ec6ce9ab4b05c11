"""SRPO against figures, and the game whose optimum it describes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prl.objectives.preference import SRPO, evaluate

RATIOS = {
    "chosen": 0.5,
    "rejected": -0.5,
    "chosen_given_rejected": 0.8,
    "rejected_given_rejected": -0.2,
    "chosen_given_chosen": 0.3,
    "rejected_given_chosen": -0.6,
}
SHEET: dict[str, Any] = {name: [[-2.0, ratio - 1.0]] for name, ratio in RATIOS.items()}
SHEET |= {f"ref_{name}": [[-2.0, -1.0]] for name in RATIOS}


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 0.5776), (1.0, 0.3281), (0.1, 0.55265)])
def test_losses_are_those_of_the_sheet(alpha: float, expected: float) -> None:
    assert evaluate(SRPO(0.1, alpha), **SHEET).tolist() == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 1.0), (1.0, 0.5)])
def test_at_the_reference(alpha: float, expected: float) -> None:
    start = {**SHEET, **{name: SHEET[f"ref_{name}"] for name in RATIOS}}
    assert evaluate(SRPO(0.1, alpha), **start).tolist() == pytest.approx([expected])


def test_swapped_responses_with_the_other_label_have_the_same_loss() -> None:
    swap = {"chosen": "rejected", "rejected": "chosen"}
    turned = {
        "_given_".join(swap[part] for part in name.split("_given_")): rows
        for name, rows in SHEET.items()
        if name in RATIOS
    }
    given = {**SHEET, **turned}
    for alpha in (0.0, 0.3, 1.0):
        one = evaluate(SRPO(0.2, alpha), **SHEET, target=[0.7])
        torch.testing.assert_close(evaluate(SRPO(0.2, alpha), **given, target=[0.3]), one)


def solved(beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Solve a game of four responses that no scale orders: P[a, b] that a beats b, and log-probabilities."""
    win = torch.full((4, 4), 0.5, dtype=torch.float64)
    for a, b, share in [(0, 1, 0.9), (1, 2, 0.8), (2, 0, 0.7), (0, 3, 0.6), (1, 3, 0.35), (2, 3, 0.5)]:
        win[a, b], win[b, a] = share, 1 - share
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    unscaled = reference[:, None] + win / beta  # [a, b]: a behind b
    total = unscaled.logsumexp(0)
    return win, {"plain": (reference - total).log_softmax(0), "revised": unscaled - total, "reference": reference}


def test_the_closed_form_of_a_game_has_no_loss_and_no_gradient() -> None:
    """The reviser is the reference tilted by its wins over what it sees; the first policy avoids what can be beaten."""
    beta = 0.3
    win, logs = solved(beta)
    places = [(w, l) for w in range(4) for l in range(4) if w != l]  # noqa: E741 - as in the formula

    def rows(of: str, *numbers: list[int]) -> list[Tensor]:
        found = [logs[of][place].clone()[None] for place in zip(*numbers, strict=True)]
        return [row.requires_grad_(of != "reference") for row in found]

    chosen, rejected = [w for w, _ in places], [number for _, number in places]
    sides = {"chosen": chosen, "rejected": rejected}
    given = {name: rows("plain", side) for name, side in sides.items()}
    given |= {f"{a}_given_{b}": rows("revised", sides[a], sides[b]) for a in sides for b in sides}
    given |= {f"ref_{name}": rows("reference", sides[name.split("_")[0]]) for name in RATIOS}
    target = [float(win[place]) for place in places]
    for alpha in (0.0, 0.4, 1.0):
        loss = evaluate(SRPO(beta, alpha), **given, target=target)
        assert loss.max() < 1e-24
        leaves = [row for name in RATIOS for row in given[name]]
        gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        assert all(each is None or each.abs().max() < 1e-12 for each in gradients)
    sure = evaluate(SRPO(beta, 0.4), **given)
    assert (sure > 1e-3).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "SRPO.beta is 0.0; expected a finite number above 0"),
        ({"alpha": 1.5}, "SRPO.alpha is 1.5; expected a number from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SRPO(**settings)  # type: ignore[arg-type]
