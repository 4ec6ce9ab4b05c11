"""The losses of judges and reward models by hand: each term alone, both orders, one order, soft labels."""

import math

import pytest
import torch

from prl.objectives.logistic import smooth, soft_logistic
from prl.objectives.reward import BradleyTerry, Pairwise
from prl.objectives.reward.base import PairBatch
from prl.objectives.reward.pairwise import language_loss
from tests.helpers.records import pair_batch, read_pairs


def f64(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def bce(margin: float, target: float) -> float:
    """BCE(sigma(z), t) = softplus(z) - t z."""
    return math.log1p(math.exp(margin)) - target * margin


def term(pairs: PairBatch, **weights: float) -> torch.Tensor:
    """Compute what terms add to the loss."""
    return Pairwise(**weights).loss(pairs) - Pairwise().loss(pairs)


def test_the_loss_is_the_mean_over_the_readings_of_a_pair() -> None:
    both = read_pairs(f64(0.75, 0.5), f64(1.5, 0.0), f64(-0.8, 0.0))
    expected = [(bce(1.5, 0.75) + bce(-0.8, 0.25)) / 2, math.log(2)]
    assert Pairwise().loss(both).tolist() == pytest.approx(expected, abs=1e-12)
    assert BradleyTerry().loss(both).tolist() == pytest.approx(expected, abs=1e-12)
    one = PairBatch(f64(1.5, -0.8)[None], torch.tensor([[True, False]]), f64(0.75, 0.75))
    assert BradleyTerry().loss(one).tolist() == pytest.approx([bce(1.5, 0.75), bce(-0.8, 0.25)], abs=1e-12)
    assert one.chosen_margin().tolist() == [[1.5, 0.8]]


def test_the_loss_does_not_mind_which_response_is_called_chosen() -> None:
    wl, lw, target = torch.randn(9), torch.randn(9), torch.rand(9)
    for objective in (Pairwise(consistency_coef=0.3, logit_consistency_coef=0.2), BradleyTerry(0.1)):
        there, back = (objective.loss(pairs) for pairs in (read_pairs(target, wl, lw), read_pairs(1 - target, lw, wl)))
        torch.testing.assert_close(there, back, atol=1e-6, rtol=0)


def test_consistency_is_zero_where_the_order_does_not_matter() -> None:
    margins, ties = torch.randn(9, dtype=torch.float64), torch.full((9,), 0.5, dtype=torch.float64)
    for name in ("consistency_coef", "logit_consistency_coef"):
        assert term(read_pairs(ties, margins, -margins), **{name: 1.0}).abs().max().item() < 1e-30
    one_place = read_pairs(f64(0.5, 0.5), f64(3.0, 8.0), f64(-1.0, 8.0))
    assert term(one_place, logit_consistency_coef=0.5).tolist() == pytest.approx([2.0, 128.0], abs=1e-12)
    sure = read_pairs(f64(1.0), f64(0.0), f64(1e3))
    assert term(sure, consistency_coef=2.0).item() == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(("name", "pull"), [("consistency_coef", 6.699e-4), ("logit_consistency_coef", 32.0)])
def test_consistency_of_sure_readings_pulls_in_log_odds_only(name: str, pull: float) -> None:
    """Both places win at p = 0.999665: the gradient is 2 (2 p - 1) p (1 - p), and 2 (8 + 8)."""
    margins = f64(8.0, 8.0).requires_grad_()
    term(read_pairs(f64(1.0), margins[:1], margins[1:]), **{name: 1.0}).sum().backward()
    assert margins.grad is not None
    assert margins.grad.tolist() == pytest.approx([pull] * 2, rel=1e-3)


def test_label_smoothing_is_a_share_of_wrong_labels_and_pulls_towards_one_half() -> None:
    assert smooth(f64(1.0, 0.0, 0.5, 0.8), 0.05).tolist() == pytest.approx([0.95, 0.05, 0.5, 0.77], abs=1e-12)
    assert torch.equal(smooth(f64(0.3), 0.0), f64(0.3))
    for sure, doubted in ((Pairwise(), Pairwise(0.1)), (BradleyTerry(), BradleyTerry(0.1))):
        pairs = pair_batch(sure, 0)
        swapped = PairBatch(pairs.margin, pairs.chosen_first, 1 - pairs.target)
        expected = 0.9 * sure.loss(pairs) + 0.1 * sure.loss(swapped)
        torch.testing.assert_close(doubted.loss(pairs), expected)


def test_language_loss_counts_the_whole_vocabulary() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 1.0]])
    ids, target = torch.tensor([3, 1]), torch.tensor([1.0, 0.25])
    normaliser = math.log(math.exp(2) + math.e + 2)
    expected = [math.log(4), 0.25 * (normaliser - 1) + 0.75 * normaliser]
    assert language_loss(logits, ids, target).tolist() == pytest.approx(expected, abs=1e-6)


def test_language_loss_is_the_verdict_loss_and_the_mass_on_the_verdicts() -> None:
    logits, ids = torch.randn(6, 5), torch.tensor([3, 1])
    target = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.95, 0.05])
    mass = logits.softmax(-1)[:, ids].sum(-1)
    margin = logits[:, 3] - logits[:, 1]
    expected = soft_logistic(margin, target) - mass.log()
    torch.testing.assert_close(language_loss(logits, ids, target), expected, atol=1e-6, rtol=1e-6)
    objective = Pairwise(label_smoothing=0.1, verdict_coef=0.0, language_coef=2.0)
    pairs = pair_batch(objective, 0)
    both, verdict_ids = pairs.verdict_logits()
    mass = both.softmax(-1)[..., verdict_ids].sum(-1).log().mean(0)
    expected = 2 * (Pairwise(0.1).loss(pairs) - mass)
    torch.testing.assert_close(objective.loss(pairs), expected, atol=1e-5, rtol=0, check_dtype=False)


@pytest.mark.parametrize("target", [0.5, 0.8])
def test_language_loss_is_least_where_the_verdicts_hold_the_label(target: float) -> None:
    best = torch.tensor([[math.log(target), -30.0, math.log(1 - target), -30.0]], dtype=torch.float64)
    best.requires_grad_()
    loss = language_loss(best, torch.tensor([0, 2]), f64(target))
    assert loss.item() == pytest.approx(-target * math.log(target) - (1 - target) * math.log(1 - target), abs=1e-6)
    loss.sum().backward()
    assert best.grad is not None
    assert best.grad.abs().max().item() < 1e-6


@pytest.mark.parametrize(
    ("objective", "settings", "words"),
    [
        (Pairwise, {"label_smoothing": 0.5}, r"Pairwise.label_smoothing is 0.5; expected at least 0 and below 0.5"),
        (BradleyTerry, {"label_smoothing": -0.1}, "BradleyTerry.label_smoothing is -0.1"),
        (Pairwise, {"consistency_coef": -1.0}, "Pairwise.consistency_coef is -1.0; expected a finite number of at"),
        (Pairwise, {"logit_consistency_coef": math.inf}, "Pairwise.logit_consistency_coef is inf"),
        (Pairwise, {"language_coef": math.nan}, "Pairwise.language_coef is nan"),
        (Pairwise, {"verdict_coef": 0.0}, "verdict_coef and language_coef are 0, so no verdict is learnt; raise one"),
    ],
)
def test_settings_that_mean_nothing_are_refused(objective: type, settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        objective(**settings)
