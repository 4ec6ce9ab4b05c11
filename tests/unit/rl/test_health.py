"""Which numbers are told to be sick, in which words, and how often."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_modules import step_health
from prl.config import Health
from prl.rl.health import KINDS, HealthError, HealthRecord, findings, not_finite

WELL = {
    **{"policy/ratio_max": 1.5, "reward/score_std": 0.2, "completions/empty_ratio": 0.0, "kl/k1": 2.0},
    **{"kl/k1_stderr": 0.1, "policy/entropy_sampled": 1.0, "reward/saturated_frac": 0.3},
}
SICK = {
    "exploding_ratio": ({"policy/ratio_max": 50.0}, "50 times as likely.*lower optimization.learning_rate"),
    "equal_rewards": ({"reward/score_std": 0.0}, "one reward.*prl judge"),
    "empty_responses": ({"completions/empty_ratio": 0.25}, "25% of the responses are empty"),
    "collapsed_entropy": ({"policy/entropy_sampled": 0.05}, r"fell to 0\.05 nats, from 1 .*kl.coef"),
    "negative_kl": ({"kl/k1": -1.0}, r"KL to the reference is -1 nats.*sampling.temperature"),
    "saturated": ({"reward/saturated_frac": 0.95}, "95% of the win probabilities.*other anchors"),
}


def test_every_finding_has_a_case() -> None:
    assert tuple(SICK) == KINDS


def test_a_well_run_has_no_finding() -> None:
    assert findings(WELL, Health(), 1.0) == []


@pytest.mark.parametrize("kind", SICK)
def test_a_sick_number_is_told_with_cause_and_cure(kind: str) -> None:
    numbers, words = SICK[kind]
    (finding,) = findings({**WELL, **numbers}, Health(), 1.0)
    assert finding.kind == kind
    assert re.search(words, finding.sentence)


@pytest.mark.parametrize(("name", "kind"), [("max_ratio", "exploding_ratio"), ("max_empty", "empty_responses")])
def test_a_null_limit_is_not_looked_at(name: str, kind: str) -> None:
    assert findings({**WELL, **SICK[kind][0]}, Health(**{name: None}), 1.0) == []


def test_a_kl_that_is_negative_by_chance_is_no_finding() -> None:
    assert findings({**WELL, "kl/k1": -0.3, "kl/k1_stderr": 0.1}, Health(), 1.0) == []


def test_the_fall_of_the_entropy_counts_from_where_it_was() -> None:
    numbers = {**WELL, "policy/entropy_sampled": 1.5}
    limits = Health(min_entropy=0.5)
    assert findings(numbers, limits, 2.0) == []
    assert [finding.kind for finding in findings(numbers, limits, 4.0)] == ["collapsed_entropy"]


def test_numbers_that_were_not_logged_are_not_looked_at() -> None:
    assert findings({}, Health(), 1.0) == []


def test_a_finding_is_told_at_first_and_at_every_so_many() -> None:
    record = HealthRecord(Health(warn_every=3))
    told = [len(record.watch({**WELL, "reward/score_std": 0.0})) for _ in range(7)]
    assert told == [1, 0, 0, 1, 0, 0, 1]
    assert record.numbers()["health/equal_rewards"] == 7


def test_counts_and_the_first_entropy_survive_a_resume() -> None:
    record, resumed = (HealthRecord(Health(warn_every=3)) for _ in range(2))
    record.watch({**WELL, "reward/score_std": 0.0})
    record.skipped = 2
    resumed.load_state_dict(record.state_dict())
    assert resumed.numbers() == record.numbers()
    (finding,) = resumed.watch({**WELL, "policy/entropy_sampled": 0.01})
    assert "from 1 in the first iteration" in finding.sentence


def test_numbers_that_are_not_finite_are_counted_by_tensor() -> None:
    tensors = {
        "margins": torch.tensor([1.0, math.inf]),
        "scores": torch.ones(3),
        "values": torch.full((2, 2), math.nan),
    }
    assert not_finite(tensors) == {"margins": 1, "values": 4}


@pytest.mark.parametrize("limits", [{"max_skipped": 0}, {"max_ratio": 1.0}, {"max_empty": 1.5}, {"warn_every": 0}])
def test_limits_out_of_range_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"health.{next(iter(limits))} is "):
        Health(**limits)


# ---- steps that Lightning takes


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Take a step of one loss and one gradient norm."""
    trainer: Any = SimpleNamespace(default_root_dir=tmp_path, fast_dev_run=False, precision_plugin=None)
    module: Any = SimpleNamespace(trainer=trainer, device=torch.device("cpu"))
    health = step_health.StepHealth(module)
    monkeypatch.setattr(step_health, "batches_done", lambda _: 4)

    def take(loss: float, norm: float) -> None:
        sharding = SimpleNamespace(gradient_norm=lambda _: torch.tensor(norm))
        monkeypatch.setattr(step_health, "sharding_of", lambda _: sharding)
        health.begin({"input_ids": torch.ones(1, 2), "texts": ["a"]})
        health.add(torch.tensor(loss))
        health.check_step()

    take.trainer = trainer  # type: ignore[attr-defined]
    return take


def test_a_loss_is_that_of_its_own_step(step: Any, tmp_path: Path) -> None:
    step(1.0, 1.0)
    with pytest.raises(HealthError, match=r"batch 5: .* not finite \(loss 2, gradient norm inf\)"):
        step(2.0, math.inf)
    saved = torch.load(tmp_path / "health" / "batch=000005.pt", weights_only=True)
    assert saved["input_ids"].tolist() == [[1, 1]]


def test_a_dry_run_leaves_no_batch(step: Any, tmp_path: Path) -> None:
    step.trainer.fast_dev_run = True
    with pytest.raises(HealthError):
        step(math.nan, 1.0)
    assert not list(tmp_path.iterdir())
