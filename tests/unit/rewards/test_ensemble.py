"""Ensembles: the figures of the paper's three rewards, what a failed member does, and who reads what when."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.models.collective import CollectiveForward
from prl.rewards import Ensemble, ScalarReward
from prl.rewards.base import load_frozen
from prl.rewards.ensemble import combine_rewards, member_variance
from prl.types import PromptBatch
from tests.helpers.records import answered
from tests.helpers.tiny import write_tiny_reward_model

NAN = float("nan")
SAID = torch.tensor([1.0, 2.0, 3.0, 1.5, 2.5], dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("mean",), 2.0),
        (("worst",), 1.0),
        (("uncertainty", 0.5, "population"), 1.75),
        (("uncertainty", 0.1, "population"), 1.95),
        (("uncertainty", 0.1, "unbiased"), 1.9375),
        (("uncertainty", 0.0, "unbiased"), 2.0),
    ],
)
def test_the_figures_of_five_members(settings: Any, expected: float) -> None:
    assert combine_rewards(SAID, *settings).tolist() == pytest.approx([expected], abs=1e-6)


def test_variances_are_those_of_numpy_and_torch() -> None:
    said = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(member_variance(said, "population"), torch.from_numpy(np.var(said.numpy(), axis=0)))
    torch.testing.assert_close(member_variance(said, "unbiased"), torch.var(said, dim=0))


@pytest.mark.parametrize("variance", ["population", "unbiased"])
@pytest.mark.parametrize("combine", ["mean", "worst", "uncertainty"])
def test_one_member_is_the_reward_and_a_failed_one_fails_the_response(combine: Any, variance: Any) -> None:
    said = torch.randn(1, 5)
    assert torch.equal(combine_rewards(said, combine, 0.5, variance), said[0])
    said = torch.randn(3, 5)
    said[1, 2] = NAN
    assert combine_rewards(said, combine, 0.5, variance).isnan().tolist() == [False, False, True, False, False]


numbers = st.floats(-10, 10)


@given(st.lists(numbers, min_size=1, max_size=6), numbers, st.floats(0, 2), st.randoms(use_true_random=False))
def test_the_order_of_members_and_a_common_offset_change_nothing_else(
    said: list[float], offset: float, coef: float, chance: Any
) -> None:
    turned = chance.sample(said, len(said))
    one, other = (torch.tensor(each, dtype=torch.float64)[:, None] for each in (said, turned))
    for combine in ("mean", "worst", "uncertainty"):
        found = combine_rewards(one, combine, coef)
        torch.testing.assert_close(combine_rewards(other + offset, combine, coef), found + offset)
        assert found <= one.mean(0) + 1e-9
    torch.testing.assert_close(combine_rewards(one, "uncertainty", 0.0), one.mean(0), rtol=0, atol=0)


# ---- the source


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(write_tiny_reward_model(tmp_path_factory.mktemp("member"), seed)) for seed in range(3)]


def loaded(folders: list[str], **settings: Any) -> Any:
    source = Ensemble(folders, **settings)
    load_frozen(source, torch.nn.Linear(1, 1), None)
    return source


def alone(folder: str) -> Any:
    source = ScalarReward(folder)
    source.load()
    return source


def prompts(*anchors: tuple[str, ...]) -> PromptBatch:
    ids = torch.ones(len(anchors), 2, dtype=torch.long)
    turns = [({"role": "user", "content": f"copy {n}"},) for n in range(len(anchors))]
    return PromptBatch(ids, ids.bool(), turns, list(anchors))


@pytest.mark.parametrize("combine", ["mean", "worst", "uncertainty"])
def test_the_models_of_the_folders_are_read_and_combined(combine: Any, folders: list[str]) -> None:
    batch = prompts(("b",), ("ab", "ba"))
    rows = answered(batch, [" abc ", "ab"])
    source = loaded(folders, combine=combine, coef=0.7)
    found = source.score(rows)
    members = [alone(folder) for folder in folders]
    turns = [batch.prompts[row] for row in (0, 1, 0, 1, 1)]
    said = torch.stack([each.rewards(turns, ["abc", "ab", "b", "ab", "ba"]) for each in members])
    least, mean, variance = said.min(0).values, said.mean(0), said.var(0)
    expected = {"mean": mean, "worst": least, "uncertainty": mean - 0.7 * variance}[combine]
    torch.testing.assert_close(found.rewards, expected[:2])
    assert found.verdict is not None
    torch.testing.assert_close(found.verdict.margin_ab, expected[[0, 1, 1]] - expected[2:])
    assert found.verdict.margin_ab[1] == 0  # the anchor is the response
    assert found.response_index is not None
    assert found.response_index.tolist() == [0, 1, 1]
    assert list(found.components) == ["member_1", "member_2", "member_3", "variance"]
    torch.testing.assert_close(found.components["member_2"], said[1, :2])
    torch.testing.assert_close(found.components["variance"], variance[:2])


def test_members_are_normalised_before_they_are_combined(folders: list[str]) -> None:
    rows = answered(prompts((), ()), ["abc", "ab"])
    source = loaded(folders[:2], combine="worst", means=[0.5, -2.0], stds=[2.0, 0.25])
    one, two = (alone(folder).rewards(rows.batch.prompts, rows.texts) for folder in folders[:2])
    found = source.score(rows)
    torch.testing.assert_close(found.rewards, torch.minimum((one - 0.5) / 2, (two + 2) / 0.25))
    assert found.verdict is None
    assert not source.needs_anchors


def test_a_member_without_a_number_leaves_the_response_without_a_reward(folders: list[str]) -> None:
    source = loaded(folders)
    plain = source.members[1].rewards
    source.members[1].rewards = lambda prompts, texts: plain(prompts, texts).masked_fill(
        torch.tensor([text == "ab" for text in texts]), NAN
    )
    assert source.score(answered(prompts((), ()), ["abc", "ab"])).failed.tolist() == [False, True]


class Turns(CollectiveForward):
    """Writes down who reads, and when others are waited for."""

    def __init__(self, model: Any, name: str, log: list[str]) -> None:
        super().__init__(model, torch.device("cpu"))
        self.name, self.log = name, log

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.log.append(f"{self.name} reads")
        return super().forward(*args, **kwargs)

    def finish(self) -> None:
        self.log.append(f"{self.name} waits")


def test_processes_read_one_member_after_the_other(folders: list[str]) -> None:
    source, log = loaded(folders[:2], batch_size=1), []
    for name, member in zip("ab", source.members, strict=True):
        member.model = Turns(member.model, name, log)
    source.score(answered(prompts(("b",), ("a",)), ["abc", "ab"]))
    assert log == ["a reads"] * 4 + ["a waits"] + ["b reads"] * 4 + ["b waits"]


def test_what_asks_a_source_for_its_models_finds_all_members(folders: list[str]) -> None:
    source = loaded(folders, dtype="float32")
    leaves: list[Any] = list(source.leaves())
    assert [leaf.folder for leaf in leaves] == folders
    assert [leaf.model_source().path for leaf in leaves] == folders
    assert not any(parameter.requires_grad for parameter in source.parameters())
    assert source.truncated_fraction() == 0
    source.score(answered(prompts(()), ["abc " * 40]))
    assert source.truncated_fraction() == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"paths": []}, r"Ensemble.paths is \[\]; expected folders of one model or more"),
        ({"paths": ["a", "b", "a"]}, "each of them once"),
        ({"combine": "best"}, "Ensemble.combine is 'best'; expected one of mean, worst, uncertainty"),
        ({"variance": "biased"}, "Ensemble.variance is 'biased'; expected one of population, unbiased"),
        ({"coef": -0.1}, "Ensemble.coef is -0.1; expected a finite number of at least 0"),
        ({"coef": math.inf}, "Ensemble.coef is inf"),
        ({"means": [0.0]}, r"Ensemble.means is \[0.0\]; expected a finite number for each of 2 members"),
        ({"means": [0.0, NAN]}, "Ensemble.means is"),
        ({"stds": [1.0, 0.0]}, r"Ensemble.stds is \[1.0, 0.0\]; expected numbers above 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ensemble(**{"paths": ["a", "b"], **settings})


def test_a_missing_folder_is_named_when_the_ensemble_is_loaded(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}/none"):
        Ensemble([*folders, f"{tmp_path}/none"]).load()
