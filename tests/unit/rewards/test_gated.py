from typing import Any

import pytest
import torch

from prl.advantages.group import GroupNormalized
from prl.rewards import GatedReward, RewardSource, RuleReward, WeightedReward
from prl.rewards.shapers import LearnedMix
from prl.rewards.shapers.overlong import Overlong
from prl.types import PromptBatch, Scores
from tests.helpers.groups import advantages
from tests.helpers.records import answered

NAMES = ("format", "outcome", "think")


def column(name: str) -> RuleReward:
    """Reward a response by the word at its place: `1 0 0.8` has format 1, outcome 0 and thoughts 0.8."""

    def read(prompt: Any, response: str, row: dict[str, Any]) -> float | None:
        word = response.split()[NAMES.index(name)]
        return None if word == "-" else float(word)

    return RuleReward(read)


def gated(*texts: str, make: Any = GatedReward, **settings: Any) -> Scores:
    sources: dict[str, RewardSource] = {name: column(name) for name in NAMES}
    weights = settings.pop("weights", dict.fromkeys(NAMES, 1.0))
    if make is GatedReward:
        settings.setdefault("gates", {"think": "outcome"})
    ids = torch.ones(len(texts), 1, dtype=torch.long)
    batch = PromptBatch(ids, ids.bool(), [()] * len(texts), [()] * len(texts))
    return make(sources, weights, **settings).score(answered(batch, list(texts)))


def test_the_figures_of_posterior_grpo() -> None:
    found = gated("1 1 0.9", "1 1 0.3", "1 0 0.8")
    assert found.rewards.tolist() == pytest.approx([2.9, 2.3, 1.0], abs=1e-6)
    expected = [0.857998, 0.240239, -1.098237]  # GRPO, unbiased
    assert advantages(GroupNormalized(epsilon=0.0), found.rewards.tolist(), 3)[:, 0].tolist() == pytest.approx(
        expected, abs=1e-6
    )
    assert {name: values.tolist() for name, values in found.components.items()} == {
        "format": [1.0, 1.0, 1.0],
        "outcome": [1.0, 1.0, 0.0],
        "think": pytest.approx([0.9, 0.3, 0.8]),
    }


def test_thoughts_of_a_wrong_answer_change_nothing_whatever_they_are() -> None:
    found = [gated(f"1 0 {think}").rewards.item() for think in ("0.8", "0", "inf", "-")]
    assert found == [1.0] * 4
    # those of a right answer do, and one for which they fail has no reward
    assert gated("0 1 0.25").rewards.item() == 1.25
    assert gated("0 1 -", "- 0 1", "1 - 1").failed.all()


def test_a_group_that_is_all_correct_still_learns() -> None:
    rewards = gated("1 1 0.9", "1 1 0.4", "1 1 0.5").rewards
    assert advantages(GroupNormalized(), rewards.tolist(), 3).abs().min() > 0.1


def test_an_open_gate_and_no_gate_are_the_weighted_sum() -> None:
    weights = {"format": 0.5, "outcome": 2.0, "think": -1.5}
    texts = ("1 1 0.9", "0 1 0.3", "0.7 1 0.8")
    plain = gated(*texts, make=WeightedReward, weights=weights).rewards
    assert torch.equal(gated(*texts, weights=weights).rewards, plain)
    # one source may gate several, and weights come behind the gate
    both = gated("1 0.5 0.8", weights=weights, gates={"think": "outcome", "format": "outcome"}).rewards
    assert both.item() == pytest.approx(0.5 * 0.5 + 2.0 * 0.5 - 1.5 * 0.4)


def test_a_source_gates_with_its_shaped_reward() -> None:
    shaper = Overlong(penalty=1.0, buffer=1)  # texts of tests have one token, the limit
    assert gated("1 1 0.9", shaping={"outcome": [shaper]}).rewards.item() == pytest.approx(1.0)


def test_a_shaper_of_the_sum_cannot_read_a_source_without_its_gate() -> None:
    source = GatedReward({name: column(name) for name in NAMES}, dict.fromkeys(NAMES, 1.0), {"think": "outcome"})
    LearnedMix({"format": 1.0}, "outcome").check(source.component_names)
    with pytest.raises(ValueError, match=r"LearnedMix reads the sources \['think'\], and the reward has"):
        LearnedMix({"think": 1.0}, "outcome").check(source.component_names)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({}, "GatedReward.gates is {}, but the sources are"),
        ({"think": "answer"}, "but the sources are"),
        ({"thoughts": "outcome"}, "but the sources are"),
        ({"think": "think"}, r"where \['think'\] gate and are gated"),
        ({"think": "outcome", "outcome": "format"}, r"where \['outcome'\] gate and are gated"),
    ],
)
def test_gates_that_cannot_be_are_refused(gates: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated("1 1 1", gates=gates)
