import math
import string

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.judge.bradley_terry import BradleyTerryJudge
from prl.rewards.scalar import ScalarReward
from prl.rewards.shapers.par import PAR
from prl.types import PromptBatch, Scores
from prl.verdict import Verdict
from tests.helpers.records import answered, make_rollout, ragged_mask
from tests.helpers.tiny import write_tiny_reward_model

texts = st.text(string.ascii_lowercase, min_size=1, max_size=8)


def par(reward: float, references: list[float], scale: float = 1.0) -> float:
    margins = torch.tensor([reward - each for each in references], dtype=torch.float64)
    rows = torch.zeros(len(references), dtype=torch.long)
    scores = Scores(torch.tensor([reward]), Verdict(margins, -margins), rows)
    return PAR(scale)(scores, make_rollout(ragged_mask([1]))).rewards.item()


def test_the_authors_figures() -> None:
    # r = 1.5, references (0.5, 1.0, -0.2), from the formula of reward_shaper.py
    assert par(1.5, [0.5, 1.0, -0.2]) == pytest.approx(0.733018, abs=1e-6)
    assert par(1.5, [0.5]) == pytest.approx(0.731059, abs=1e-6)
    assert par(1.5, [0.5], scale=2.0) == pytest.approx(1 / (1 + math.exp(-2.0)), abs=1e-9)


def test_a_shift_of_all_scalars_changes_nothing_and_parity_is_a_half() -> None:
    assert par(7.5, [6.5, 7.0, 5.8]) == pytest.approx(par(1.5, [0.5, 1.0, -0.2]), abs=1e-12)
    assert par(3.0, [3.0, 3.0]) == 0.5
    assert 0 < par(-9.0, [0.0]) < par(9.0, [0.0]) < 1


def test_with_one_reference_it_is_the_win_probability_of_a_bradley_terry_judge() -> None:
    margin = torch.randn(5)
    verdict = Verdict(margin, -margin)
    found = PAR()(Scores(torch.zeros(5), verdict, torch.arange(5)), make_rollout(ragged_mask([1] * 5))).rewards
    torch.testing.assert_close(found, verdict.win_prob, atol=1e-7, rtol=0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[BradleyTerryJudge, ScalarReward]:
    """One model of a folder, as a judge and as a scalar."""
    path = str(write_tiny_reward_model(tmp_path_factory.mktemp("scalar"), seed=0))
    judge, scalar = BradleyTerryJudge(path), ScalarReward(path)
    judge.load()
    scalar.load()
    return judge, scalar


@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_pairwise_rl_with_a_bradley_terry_judge_is_par_of_its_scalar(
    loaded: tuple[BradleyTerryJudge, ScalarReward], responses: list[str], anchors: list[str]
) -> None:
    """The judge's debiased win probability, both orders read, beside PAR over what the same model says of each text."""
    ids, turn = torch.ones(len(responses), 1, dtype=torch.long), ({"role": "user", "content": "q"},)
    batch = PromptBatch(ids, ids.bool(), [turn] * len(responses), [tuple(anchors)] * len(responses))
    rollout = answered(batch, responses)
    judge, scalar = loaded
    found = PAR()(scalar.score(rollout), rollout).rewards
    torch.testing.assert_close(found, judge.score(rollout).rewards, atol=1e-6, rtol=0)


def test_without_references_or_with_a_scale_that_cannot_be_it_is_refused() -> None:
    with pytest.raises(ValueError, match="PAR reads comparisons with anchors"):
        PAR()(Scores(torch.zeros(1)), make_rollout(ragged_mask([1])))
    with pytest.raises(ValueError, match="PAR.scale is 0.0; expected a positive number"):
        PAR(0.0)
