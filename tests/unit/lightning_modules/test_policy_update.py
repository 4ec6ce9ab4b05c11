"""Micro-batches of an iteration, by the responses to a prompt."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import PairwisePPOModule, TrajectoryPolicyModule
from prl.config import ModelSource, Sampling, Update
from prl.rl.minibatch import split_microbatches
from tests.helpers.tiny import LengthJudge


def build(folder: Path, per_prompt: int, packed: Any) -> PairwisePPOModule:
    return PairwisePPOModule(
        ModelSource(path=str(folder)),
        LengthJudge(),
        sampling=Sampling(per_prompt=per_prompt),
        update=Update(microbatch_size=4, packed=packed),
    )


def draws(module: PairwisePPOModule, group: torch.Tensor) -> list[list[int]]:
    torch.manual_seed(7)
    return [rows.tolist() for rows in module.split_microbatches(group)]


@pytest.mark.parametrize(("per_prompt", "packed"), [(1, "on"), (1, "auto"), (4, "off")])
def test_without_sharing_rows_are_dealt_as_ever(per_prompt: int, packed: str, tiny_folder: Path) -> None:
    module = build(tiny_folder, per_prompt, packed)
    assert module.packed == "off"
    torch.manual_seed(7)
    expected = [rows.tolist() for rows in split_microbatches(16, 4)]
    assert draws(module, torch.arange(16) // per_prompt) == expected


def test_with_sharing_responses_to_a_prompt_stay_together(tiny_folder: Path) -> None:
    module = build(tiny_folder, 4, "auto")
    groups = draws(module, torch.arange(16) // 4)
    assert [sorted({row // 4 for row in rows}) for rows in groups] == [[row // 4] for row, *_ in groups]
    assert sorted(sum(groups, [])) == list(range(16))


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="update.packed is 'always'; expected auto, on or off"):
        Update(packed="always")  # type: ignore[arg-type]


def test_pictures_share_no_tokens(tiny_folder: Path) -> None:
    reward: Any = torch.nn.Module()
    reward.compares, reward.component_names = False, ()
    with pytest.raises(ValueError, match=r"update\.packed is on, but pictures share no tokens of a prompt"):
        TrajectoryPolicyModule(ModelSource(path=str(tiny_folder)), reward, update=Update(packed="on"))
