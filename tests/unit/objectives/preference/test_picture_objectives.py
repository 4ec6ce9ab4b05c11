"""SmPO, RankDPO, SePPO, DiffusionDRO and SubjectRPO against figures that did not come from this repository.

The figures are computed by hand from the papers' equations, on errors of a denoiser: a response of one token whose
log-probability is minus half its error.
"""

import math

import pytest
import torch

from prl.objectives.preference import DPO, DiffusionDRO, RankDPO, SePPO, SmPO, SubjectRPO, TreePO, evaluate
from prl.objectives.preference.rank_dpo import win_shares


def errors(chosen: float, rejected: float, ref_chosen: float, ref_rejected: float) -> dict[str, list[list[float]]]:
    named = {"chosen": chosen, "rejected": rejected, "ref_chosen": ref_chosen, "ref_rejected": ref_rejected}
    return {name: [[-error / 2]] for name, error in named.items()}


PAIR = errors(0.10, 0.30, 0.20, 0.20)
AT_REFERENCE = errors(0.2, 0.2, 0.2, 0.2)


def test_diffusion_dpo() -> None:
    assert evaluate(DPO(10.0), **PAIR).item() == pytest.approx(0.313262, abs=1e-6)
    turned = errors(0.30, 0.10, 0.20, 0.20)
    assert evaluate(DPO(10.0), **turned).item() == pytest.approx(0.313262 + 1.0, abs=1e-6)  # -log sigma(-1)
    farther = errors(0.10, 0.30, 0.45, 0.45)
    assert evaluate(DPO(10.0), **farther).item() == pytest.approx(evaluate(DPO(10.0), **PAIR).item())


@pytest.mark.parametrize("objective", [DPO(3.0), SmPO(3.0), SePPO(3.0)])
def test_a_model_at_its_reference_is_unsure(objective) -> None:
    assert evaluate(objective, **AT_REFERENCE).item() == pytest.approx(math.log(2))


class TestSmPO:
    def test_the_factor_of_a_difference_of_rewards(self) -> None:
        label = 1 / (1 + math.exp(-0.5))
        assert label == pytest.approx(0.622459, abs=1e-6)
        expected = -math.log(1 / (1 + math.exp(-2.449187 * 3.0 * 0.1)))  # gamma tanh(1/4), beta, h_w - h_l
        assert evaluate(SmPO(3.0), **PAIR, target=[label]).item() == pytest.approx(expected, abs=1e-6)
        assert 10 * math.tanh(0.25) == pytest.approx(2.449187, abs=1e-6)

    def test_a_pair_of_equal_rewards_teaches_nothing(self) -> None:
        chosen = torch.tensor([-0.05], requires_grad=True)
        given = {name: [torch.tensor(row) for row in rows] for name, rows in PAIR.items()} | {"chosen": [chosen]}
        loss = evaluate(SmPO(3.0), **given, target=[0.5])
        loss.sum().backward()
        assert loss.item() == pytest.approx(math.log(2))
        assert chosen.grad.item() == 0

    def test_with_gamma_1_and_a_sure_label_it_is_dpo(self) -> None:
        assert torch.equal(evaluate(SmPO(3.0, gamma=1.0), **PAIR), evaluate(DPO(3.0), **PAIR))

    def test_a_label_the_other_way_round_turns_the_pair(self) -> None:
        turned = errors(0.30, 0.10, 0.20, 0.20)
        left, right = evaluate(SmPO(3.0), **PAIR, target=[0.2]), evaluate(SmPO(3.0), **turned, target=[0.8])
        torch.testing.assert_close(left, right)


class TestRankDPO:
    PHI = (1.0, 2 / 3, 1 / 3, 0.0)

    def lists(self, errs: list[float], ref: list[float], phi: list[float]) -> dict[str, list]:
        return {
            "responses": [[[-each / 2] for each in errs]],
            "ref_responses": [[[-each / 2] for each in ref]],
            "rewards": [phi],
        }

    def test_four_pictures_at_the_reference(self) -> None:
        given = self.lists([0.2] * 4, [0.2] * 4, list(self.PHI))
        assert evaluate(RankDPO(2.0), **PAIR, **given).item() == pytest.approx(1.270165, abs=1e-6)

    def test_the_weight_of_each_pair(self) -> None:
        """One picture is moved, so the loss tells the weight of its pairs from that of the others."""
        weights = {(0, 1): 0.219691, (0, 2): 0.533854, (0, 3): 0.821360, (1, 2): 0.061858, (1, 3): 0.169703}
        weights[2, 3] = 0.025995
        for moved in range(4):
            errs = [0.2] * 4
            errs[moved] += 0.1
            expected = 0.0
            for (i, j), weight in weights.items():
                margin = -2.0 * (errs[i] - errs[j]) / 2  # beta (rho_i - rho_j)
                expected += weight * math.log1p(math.exp(-margin))
            found = evaluate(RankDPO(2.0), **PAIR, **self.lists(errs, [0.2] * 4, list(self.PHI))).item()
            assert found == pytest.approx(expected, abs=3e-6)

    def test_two_pictures_are_weighed_diffusion_dpo(self) -> None:
        given = self.lists([0.10, 0.30], [0.20, 0.20], [1.0, 0.0])
        expected = 0.532456 * evaluate(DPO(6.0), **PAIR).item()
        assert evaluate(RankDPO(6.0), **PAIR, **given).item() == pytest.approx(expected, abs=1e-6)
        at_reference = self.lists([0.2, 0.2], [0.2, 0.2], [1.0, 0.0])
        assert evaluate(RankDPO(6.0), **PAIR, **at_reference).item() == pytest.approx(0.369070, abs=1e-6)

    def test_shares_of_wins(self) -> None:
        scores = torch.tensor([[3.0, 1.0], [2.0, 3.0], [1.0, 2.0]])
        assert win_shares(scores).tolist() == pytest.approx([0.5, 0.75, 0.25])
        assert win_shares(torch.ones(3, 2)).tolist() == pytest.approx([0.5] * 3)

    def test_equal_shares_teach_nothing(self) -> None:
        given = self.lists([0.1, 0.3], [0.2, 0.2], [0.5, 0.5])
        assert evaluate(RankDPO(2.0), **PAIR, **given).item() == 0

    def test_its_ranks_are_those_of_labels_and_not_of_the_model(self) -> None:
        """At the labels' own order both agree; against it only TreePO changes its weights."""
        own, other = [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]
        for errs, is_equal in ((own, True), (other, False)):
            given = self.lists(errs, [0.2] * 3, [1.0, 0.5, 0.0])
            left, right = evaluate(RankDPO(2.0), **PAIR, **given), evaluate(TreePO(2.0), **PAIR, **given)
            assert bool(torch.isclose(left, right)) == is_equal


class TestSePPO:
    """beta is twice that of the paper, whose margin is of errors."""

    @pytest.mark.parametrize(("d_w", "d_r", "loss"), [(-0.05, 0.06, 0.287335), (0.05, 0.06, 1.387335)])
    def test_both_signs(self, d_w, d_r, loss) -> None:
        pair = errors(0.3 + d_w, 0.3 + d_r, 0.3, 0.3)
        assert evaluate(SePPO(20.0), **pair).item() == pytest.approx(loss, abs=1e-6)

    def test_with_the_other_sign_the_gradient_lowers_both_errors(self) -> None:
        sides = {
            name: torch.tensor([value], requires_grad=True) for name, value in (("chosen", -0.2), ("rejected", -0.3))
        }
        given = {name: [side] for name, side in sides.items()}
        given |= {f"ref_{name}": [torch.tensor([-0.15])] for name in sides}
        evaluate(SePPO(2.0), **given).sum().backward()
        assert all(side.grad.item() < 0 for side in sides.values())  # a step raises both log-probabilities

    def test_where_chosen_is_learnt_it_is_dpo(self) -> None:
        torch.testing.assert_close(evaluate(SePPO(6.0), **PAIR), evaluate(DPO(6.0), **PAIR))


class TestDiffusionDRO:
    def test_below_the_margin_nothing_is_learnt(self) -> None:
        pair = errors(0.20, 0.10, 0.25, 0.04)
        assert evaluate(DiffusionDRO(), **pair).item() == pytest.approx(-0.001)
        chosen = torch.tensor([-0.1], requires_grad=True)
        given = {name: [torch.tensor(row) for row in rows] for name, rows in pair.items()} | {"chosen": [chosen]}
        evaluate(DiffusionDRO(), **given).sum().backward()
        assert chosen.grad.item() == 0

    def test_above_it_the_loss_is_the_difference_of_errors(self) -> None:
        assert evaluate(DiffusionDRO(), **errors(0.27, 0.04, 0.25, 0.04)).item() == pytest.approx(0.02)
        assert evaluate(DiffusionDRO(), **AT_REFERENCE).item() == pytest.approx(0.0)

    def test_without_a_margin_and_with_a_policy_that_does_not_move_it_is_supervised(self) -> None:
        chosen = torch.tensor([-0.1], requires_grad=True)
        given = {"chosen": [chosen], "rejected": [torch.tensor([-0.05])]}
        given |= {"ref_chosen": [torch.tensor([-0.1])], "ref_rejected": [torch.tensor([-0.05])]}
        evaluate(DiffusionDRO(math.inf), **given).sum().backward()
        assert chosen.grad.item() == -2  # an error is -2 log-probabilities


class TestSubjectRPO:
    @pytest.mark.parametrize(("label", "loss"), [(1.0, 0.858760), (0.0, 0.928760)])
    def test_both_labels(self, label, loss) -> None:
        """The reference picture's error falls from .25 to .20, that of the model's own rises from .20 to .22."""
        found = evaluate(SubjectRPO(), **errors(0.20, 0.22, 0.25, 0.20), target=[label]).item()
        assert found == pytest.approx(loss, abs=1e-6)

    def test_at_the_reference(self) -> None:
        assert evaluate(SubjectRPO(), **AT_REFERENCE).item() == pytest.approx(0.2 + math.log(2))

    def test_imitation_is_of_chosen_whatever_the_label_says(self) -> None:
        sure, unsure = (evaluate(SubjectRPO(1e-9), **PAIR, target=[label]).item() for label in (1.0, 0.0))
        assert sure == pytest.approx(0.1 + math.log(2))
        assert unsure == pytest.approx(sure)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SmPO(gamma=0.0), "SmPO.gamma is 0.0; expected a finite number above 0"),
        (lambda: SmPO(beta=-1.0), "SmPO.beta"),
        (lambda: RankDPO(0.0), "RankDPO.beta is 0.0"),
        (lambda: SePPO(0.0), "SePPO.beta is 0.0"),
        (lambda: DiffusionDRO(0.0), "DiffusionDRO.margin is 0.0; expected a number above 0"),
        (lambda: SubjectRPO(sft_weight=-1.0), "SubjectRPO.sft_weight is -1.0"),
    ],
)
def test_settings_out_of_range(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()
