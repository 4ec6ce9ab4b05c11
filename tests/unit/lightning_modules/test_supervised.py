"""The supervised stage on rows of different lengths, beside plain forward passes of each row alone."""

from typing import Any

import pytest
import torch

from lightning_modules import SupervisedModule
from prl.config import ModelSource
from prl.data.rows.records import Demonstration
from tests.helpers.tiny import tiny_model

ROWS = [  # prompts and completions of different lengths
    Demonstration(({"role": "user", "content": "reverse dcab"},), "bacd"),
    Demonstration(({"role": "user", "content": "copy a"},), "a"),
    Demonstration(({"role": "user", "content": "x"},), "a much longer completion"),
]


@pytest.fixture
def module(tiny_folder: Any) -> Any:
    module: Any = SupervisedModule(ModelSource(path=str(tiny_folder)), max_length=64)
    module.configure_model()
    module.logged, module.weights = {}, {}

    def log(name: str, value: Any, batch_size: int = 1, **_: Any) -> None:
        module.logged[name], module.weights[name] = float(value), batch_size

    module.log = log  # there is no trainer
    return module


def batch_of(module: Any, rows: list[Demonstration]) -> dict[str, torch.Tensor]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(row) for row in rows])


def surprises(module: Any) -> list[list[float]]:
    """-log p of each completion token and of the end token, in nats; every row alone, in float64."""
    tokenizer, model = module.build_encoder().tokenizer, tiny_model(0).double()
    found = []
    for row in ROWS:
        prompt = tokenizer(row.prompt[0]["content"] + "\n")["input_ids"]
        completion = [*tokenizer(row.completion)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        found.append([-float(logprobs[place, token]) for place, token in zip(places, completion, strict=True)])
    return found


def test_the_loss_is_the_mean_over_the_completion_tokens_of_the_batch(module: Any) -> None:
    every = [number for row in surprises(module) for number in row]
    loss = module.training_step(batch_of(module, ROWS), 0)
    assert loss.item() == pytest.approx(sum(every) / len(every), rel=1e-5)
    assert module.logged["train/loss"] == pytest.approx(sum(every) / len(every), rel=1e-5)
    assert module.logged["train/tokens"] == len(every) == sum(len(row.completion) + 1 for row in ROWS)


def test_a_validation_weighs_batches_by_their_tokens(module: Any) -> None:
    total = 0.0
    for row, expected in zip(ROWS, surprises(module), strict=True):
        module.validation_step(batch_of(module, [row]), 0)
        assert module.logged["val/loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        assert module.weights["val/loss"] == len(expected)
        total += module.logged["val/loss"] * module.weights["val/loss"]
    assert total == pytest.approx(sum(sum(row) for row in surprises(module)), rel=1e-5)


def test_predictions_are_log_likelihoods_of_completions(module: Any) -> None:
    predicted = module.predict_step(batch_of(module, ROWS), 0)
    assert [row["logprob"] for row in predicted] == pytest.approx([-sum(row) for row in surprises(module)], rel=1e-5)
    assert [row["tokens"] for row in predicted] == [len(row) for row in surprises(module)]
