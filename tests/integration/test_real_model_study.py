"""The study of a real model, stage by stage, with a tiny random one."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from experiments import real_model
from experiments import real_model_inputs as inputs
from experiments.instructions import instructions
from prl.quickstart.tokenizer import CHAT_TEMPLATE
from tests.helpers.tiny import tiny_model

SIZES = replace(
    *(inputs.SMALL,),
    **{"prompts": 24, "validation": 6, "unseen": 3, "pairs": 16, "rates": (1e-3, 2e-3)},
    **{"iterations": 2, "every": 2, "prompts_an_iteration": 4},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random model whose tokens are pieces of words, so that prompts have few of them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=["<eos>", "<pad>"], show_progress=False
    )
    texts = [each.text for each in instructions("words", "train", 300)]
    backend.train_from_iterator([*texts, *["is Response A or Response B"] * 300], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", padding_side="left", chat_template=CHAT_TEMPLATE
    )
    folder = tmp_path_factory.mktemp("model")
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    tiny_model(0, vocab_size=len(tokenizer), **ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_all_stages_make_their_lines_once_and_the_tables(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(inputs, "SMALL", SIZES)
    results = tmp_path / "results.jsonl"
    more = ["--model", str(model), "--out", str(tmp_path / "runs"), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["real_model", "--small", "--seeds", "1", *more])
    real_model.main()
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    study = real_model.Study(model, SIZES, tmp_path / "runs", results)
    assert [(line["variant"], line["seed"]) for line in lines] == study.wanted(range(1))
    assert len(lines) == 4 + 1 + 2 + 3
    by_name = {line["variant"]: line for line in lines}
    assert by_name["instructions: generative"]["pairs"] == by_name["instructions: Bradley-Terry"]["pairs"] > 8
    for arm in real_model.ARMS:
        points = by_name[f"{arm} | judge 0"]["points"]
        assert [point["batch"] for point in points] == [0, 2]
        assert points[0]["kl"] == 0
        assert f"| {arm} |" in printed
    starts = {tuple(by_name[f"{arm} | judge 0"]["points"][0].values()) for arm in real_model.ARMS}
    assert len(starts) == 1  # the same start, prompts and draws for all
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    monkeypatch.setattr("experiments.training.fit_model", None)  # nothing is trained again
    real_model.main()
    assert [json.loads(line) for line in results.read_text().splitlines()] == lines
    assert (tmp_path / "runs" / "policies.png").exists()
