"""Objectives of a user's own in the stages of judges and reward models: what they need, read and leave behind."""

from typing import Any

import pytest
import torch

from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule
from prl.config import ModelSource
from prl.data import PreferencePair
from prl.data.rows.row_errors import RowError
from prl.judge import BradleyTerryJudge
from prl.objectives.reward import BradleyTerry, Pairwise, RewardObjective
from prl.rewards.folder import read_judge_file
from tests.helpers.reward import Offset, OneLoss, Ratings, Taken, Warming

PROMPT = ({"role": "user", "content": "reverse dcab"},)
PAIRS = [
    PreferencePair(PROMPT, "bacd", "bcad", extra={"offset": 0.5, "rating_chosen": 4, "rating_rejected": "1"}),
    PreferencePair(PROMPT, "dcab", "a", 0.8, 2.0, extra={"offset": -1, "rating_chosen": 3, "rating_rejected": 2}),
]
SOURCE = ModelSource(path="folder")
Stage = type[GenerativeRewardModule] | type[BradleyTerryRewardModule]


def made(stage: Stage, folder: Any, objective: RewardObjective, **settings: Any) -> Any:
    torch.manual_seed(0)  # a scalar head is new
    module: Any = stage(ModelSource(path=str(folder)), objective=objective, max_length=400, **settings)
    module.configure_model()
    module.log = lambda *_, **__: None  # there is no trainer
    return module


def batch_of(module: Any) -> dict[str, Any]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(pair) for pair in PAIRS])


REFUSED: dict[str, tuple[Stage, RewardObjective, dict[str, Any], str]] = {
    "rewards of a judge": (
        GenerativeRewardModule,
        Ratings(),
        {},
        "Ratings reads rewards of .*BradleyTerryRewardModule",
    ),
    "a term of both orders": (
        GenerativeRewardModule,
        Pairwise(consistency_coef=1.0),
        {"order": "random"},
        "objective: Pairwise reads both orders of a pair, and order is random; it needs order: both",
    ),
    "logits of a scalar": (
        BradleyTerryRewardModule,
        Pairwise(language_coef=1.0),
        {},
        r"objective: Pairwise reads logits of a verdict .needs_logits., which .* does not give; train a judge",
    ),
    "orders of a scalar": (BradleyTerryRewardModule, Warming(), {}, "Warming reads both orders of a pair"),
    "a head of no weight": (BradleyTerryRewardModule, Ratings(float("nan")), {}, "Ratings has a head of weight nan"),
    "a label, judge": (GenerativeRewardModule, Taken(), {}, "Taken declares 'margin', which a preference pair has"),
    "a label, scalar": (BradleyTerryRewardModule, Taken(), {}, "Taken declares 'margin', which a preference pair has"),
}


@pytest.mark.parametrize(("stage", "objective", "settings", "words"), REFUSED.values(), ids=REFUSED)
def test_needs_are_checked_before_anything_is_read(
    stage: Stage, objective: RewardObjective, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        stage(SOURCE, objective=objective, **settings)


@pytest.mark.parametrize("stage", [GenerativeRewardModule, BradleyTerryRewardModule])
def test_an_objective_of_margins_and_columns_serves_both(stage: Stage, tiny_folder: Any) -> None:
    module = made(stage, tiny_folder, Offset())
    batch = batch_of(module)
    assert batch["column.offset"].tolist() == [0.5, -1.0]
    verdict, offset = module.verdict(batch), torch.tensor([0.5, -1.0])
    readings = [verdict.margin_ab] if stage is BradleyTerryRewardModule else [verdict.margin_ab, -verdict.margin_ba]
    losses = torch.zeros(2)
    for margin in readings:
        sides = [-torch.nn.functional.logsigmoid(sign * (margin - offset)) for sign in (1, -1)]
        losses += (batch["targets"] * sides[0] + (1 - batch["targets"]) * sides[1]) / len(readings)
    expected = (losses[0] + 2 * losses[1]) / 3
    assert module.training_step(batch, 0).item() == pytest.approx(expected.item(), abs=1e-5)
    with pytest.raises(RowError, match="further columns none"):
        module.build_encoder().encode(PreferencePair(PROMPT, "a", "b"))


def test_rows_on_disk_are_of_one_list_of_columns(tiny_folder: Any) -> None:
    for stage in (GenerativeRewardModule, BradleyTerryRewardModule):
        plain, other = (made(stage, tiny_folder, objective).build_encoder() for objective in (BradleyTerry(), Offset()))
        assert plain.fingerprint != other.fingerprint


def test_heads_are_trained_exported_and_read_again_with_their_weights(tiny_folder: Any, tmp_path: Any) -> None:
    module = made(BradleyTerryRewardModule, tiny_folder, Ratings(0.5))
    assert module.model.score.weight.shape[0] == 2
    batch = batch_of(module)
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        chosen, rejected = module.model(**inputs).logits.chunk(2)
    ratings = torch.tensor([[4.0, 3.0], [1.0, 2.0]])
    parts = [(each - torch.stack([given, given.log()], 1)) ** 2 for each, given in zip((chosen, rejected), ratings)]  # noqa: B905
    losses = sum(part.sum(1) for part in parts)
    assert module.training_step(batch, 0).item() == pytest.approx(float((losses[0] + 2 * losses[1]) / 3), rel=1e-5)
    reward = torch.tensor([1.0, 0.5])
    torch.testing.assert_close(module.verdict(batch).margin_ab, (chosen - rejected) @ reward, atol=1e-6, rtol=1e-5)

    module.export(tmp_path / "judge")
    assert read_judge_file(tmp_path / "judge")["head_weights"] == [1.0, 0.5]
    judge = BradleyTerryJudge(str(tmp_path / "judge"))
    judge.load()
    found = judge.margins([(pair.prompt, pair.chosen, pair.rejected) for pair in PAIRS])
    torch.testing.assert_close(found, module.verdict(batch).margin_ab.detach(), atol=1e-5, rtol=1e-5)
    judge.save_pretrained(tmp_path / "again")
    assert read_judge_file(tmp_path / "again") == read_judge_file(tmp_path / "judge")


@pytest.mark.parametrize("stage", [GenerativeRewardModule, BradleyTerryRewardModule])
def test_a_mean_is_no_loss_for_each_pair(stage: Stage, tiny_folder: Any) -> None:
    module = made(stage, tiny_folder, OneLoss())
    with pytest.raises(ValueError, match=r"OneLoss.loss gave shape \(\); expected a loss for each of 2 pairs, \[B\]"):
        module.training_step(batch_of(module), 0)


def test_the_state_of_an_objective_is_in_checkpoints(tiny_folder: Any) -> None:
    module = made(GenerativeRewardModule, tiny_folder, Warming())
    module.training_step(batch_of(module), 0)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["run_state"] == {"objective": {"scale": 0.1}}
    again = made(GenerativeRewardModule, tiny_folder, Warming())
    again.run_state.load_state_dict(checkpoint["run_state"])
    assert again.objective.scale == 0.1
