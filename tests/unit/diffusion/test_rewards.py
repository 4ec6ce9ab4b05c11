"""Adversarial and harmonic rewards against figures computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prl.diffusion.rewards import AdversarialReward, HarmonicReward
from prl.diffusion.rewards.adversarial import adversarial_loss
from prl.diffusion.rewards.conv_scorer import ConvScorer
from prl.diffusion.rewards.harmonic import harmonic
from tests.helpers.pictures import Brightness, tokenizer


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


class TestAdversarialLoss:
    def test_hinge(self) -> None:
        assert float(adversarial_loss(one(0.5), one(-0.2), "hinge")) == pytest.approx(0.65)
        assert float(adversarial_loss(one(1.0), one(-1.3), "hinge")) == 0

    def test_pairwise_and_bce(self) -> None:
        assert float(adversarial_loss(one(2.0), one(1.0), "pairwise")) == pytest.approx(0.313262, abs=1e-6)
        assert float(adversarial_loss(one(1.0), one(-1.0), "bce")) == pytest.approx(2 * 0.313262, abs=2e-6)

    @pytest.mark.parametrize("loss", ["hinge", "pairwise", "bce"])
    def test_its_step_raises_references_and_lowers_what_was_made(self, loss) -> None:
        real, made = (one(0.1).requires_grad_() for _ in range(2))
        adversarial_loss(real, made, loss).backward()
        assert real.grad is not None
        assert made.grad is not None
        assert float(real.grad) < 0 < float(made.grad)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """Bright pictures for two prompts."""
    torch.manual_seed(0)
    ConvScorer(tokenizer(), image_size=8, width=8).save(tmp_path / "scorer")
    np.save(tmp_path / "bright.npy", np.full((2, 8, 8, 3), 230, np.uint8))
    rows = [
        {"prompt": prompt, "image": f"bright.npy#{n}"} for n, prompt in enumerate(("a red circle", "a blue square"))
    ]
    (tmp_path / "references.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def reward(folder: Path, **settings) -> AdversarialReward:
    return AdversarialReward(str(folder / "scorer"), str(folder / "references.jsonl"), **settings)


PROMPTS = ["a red circle", "a blue square"] * 4
DARK = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.9


class TestAdversarialReward:
    @pytest.mark.parametrize("loss", ["hinge", "pairwise", "bce"])
    def test_it_learns_to_tell_pictures_from_references(self, loss, references) -> None:
        found = reward(references, loss=loss, learning_rate=1e-2)
        bright = -DARK
        before = float(found.score(bright, PROMPTS).mean() - found.score(DARK, PROMPTS).mean())
        told = [found.learn(DARK, PROMPTS, torch.zeros(8)) for _ in range(20)]
        after = float(found.score(bright, PROMPTS).mean() - found.score(DARK, PROMPTS).mean())
        assert after > before + 0.5
        assert told[-1]["discriminator/lead"] < told[0]["discriminator/lead"]
        assert not any(parameter.requires_grad for parameter in found.parameters())

    def test_with_a_trigger_it_learns_only_where_the_policy_leads(self, references) -> None:
        found = reward(references, trigger="leads", learning_rate=1e-2)
        for _ in range(60):
            told = found.learn(DARK, PROMPTS, torch.zeros(8))
            assert ("discriminator/loss" in told) == (told["discriminator/lead"] > 0)
        assert "discriminator/loss" not in told  # by now the references lead

    def test_a_saved_state_goes_on_to_the_bit(self, references) -> None:
        one, other = (reward(references, learning_rate=1e-2) for _ in range(2))
        for _ in range(3):
            one.learn(DARK, PROMPTS, torch.zeros(8))
        other.learner.load_state_dict(one.learner.state_dict())
        for each in (one, other):
            torch.manual_seed(5)
            each.learn(DARK, PROMPTS, torch.zeros(8))
        assert torch.equal(one.score(DARK, PROMPTS), other.score(DARK, PROMPTS))

    def test_every_prompt_needs_a_reference(self, references) -> None:
        with pytest.raises(ValueError, match="prompt 'a red square' has no picture"):
            reward(references).learn(DARK[:1], ["a red square"], torch.zeros(1))

    @pytest.mark.parametrize("settings", [{"loss": "gan"}, {"trigger": "never"}, {"learning_rate": 0.0}])
    def test_settings_out_of_range(self, settings, references) -> None:
        with pytest.raises(ValueError, match=f"AdversarialReward.{next(iter(settings))} is"):
            reward(references, **settings)


class TestHarmonic:
    @pytest.mark.parametrize(("weight", "expected"), [(0.5, 0.72), (0.3, 0.666667), (0.0, 0.6), (1.0, 0.9)])
    def test_the_figures_of_the_sheet(self, weight, expected) -> None:
        assert float(harmonic(one(0.9), one(0.6), weight)) == pytest.approx(expected, abs=1e-6)

    def test_it_is_never_above_the_mean_and_0_where_either_is(self) -> None:
        images, texts = torch.rand(50).double(), torch.rand(50).double()
        assert (harmonic(images, texts, 0.4) <= 0.4 * images + 0.6 * texts + 1e-9).all()
        assert float(harmonic(one(0.0), one(0.8), 0.5)) == 0
        assert float(harmonic(one(0.0), one(0.8), 0.0)) == pytest.approx(0.8)

    def test_rewards_out_of_range_are_refused(self) -> None:
        found = HarmonicReward(Brightness(), Brightness(), 0.5)
        assert found.score(torch.full((1, 3, 2, 2), 0.25), ["a"]).tolist() == pytest.approx([0.25])
        with pytest.raises(ValueError, match="HarmonicReward.image gave -0.25; expected rewards from 0 to 1"):
            found.score(torch.full((1, 3, 2, 2), -0.25), ["a"])
        with pytest.raises(ValueError, match="HarmonicReward.weight is 2"):
            HarmonicReward(Brightness(), Brightness(), 2.0)
