"""A model whose numbers depend on the batch is told of when it is read."""

import logging

import torch
from torch import nn

from prl.judge import GenerativeJudge
from prl.rewards import ScalarReward
from prl.rewards.layout import tell_if_layout_matters
from tests.helpers.tiny import write_tiny_model
from tests.unit.rewards.test_plain_model import classifier

MODEL = nn.Linear(1, 1)


def lengths(prompts: list, texts: list[str]) -> torch.Tensor:
    return torch.tensor([float(len(text)) for text in texts])


def test_a_number_of_the_text_alone_is_silent(caplog) -> None:
    assert tell_if_layout_matters(lengths, MODEL, "rm", "float32") == 0
    assert not caplog.records


def test_a_number_that_counts_padding_is_told(caplog) -> None:
    def padded(prompts: list, texts: list[str]) -> torch.Tensor:
        return lengths(prompts, texts) + 0.1 * max(map(len, texts))

    with caplog.at_level(logging.WARNING):
        found = tell_if_layout_matters(padded, MODEL, "rm", "float32")
    assert found is not None
    assert found > 1
    assert "rm: what it says of a text changes by" in caplog.text


def test_weights_of_another_process_are_not_tried() -> None:
    assert tell_if_layout_matters(lengths, nn.Linear(1, 1, device="meta"), "rm", "float32") is None


def test_models_that_mask_their_padding_are_silent_and_one_that_does_not_is_told(tmp_path, caplog, monkeypatch) -> None:
    sizes = {"max_position_embeddings": 2048}
    folders = classifier(tmp_path / "rm"), write_tiny_model(tmp_path / "lm", 1, **sizes)
    for source in (ScalarReward(str(folders[0])), GenerativeJudge(str(folders[1]))):
        source.load()
        assert source.truncated_fraction() == 0
    assert "what it says of a text" not in caplog.text

    def unmasked(ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"input_ids": ids}

    monkeypatch.setattr("prl.models.policy.model_inputs", unmasked)
    GenerativeJudge(str(folders[1]), fused="off").load()
    assert f"{folders[1]}: what it says of a text" in caplog.text
