"""A pair's weight reaches the loss of every judge."""

from typing import Any

import pytest
import torch

from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule
from prl.config import ModelSource
from prl.data import PreferencePair
from prl.judge.template import JudgeTemplate
from prl.objectives.reward import Pairwise

TEMPLATE = JudgeTemplate(text="p {{ prompt }} 1 {{ response_a }} 2 {{ response_b }} best", chat=False)
PROMPT = ({"role": "user", "content": "reverse dcab"},)


def make(kind: str, tiny_folder: Any) -> Any:
    source = ModelSource(path=str(tiny_folder))
    if kind == "bradley_terry":
        torch.manual_seed(0)  # the scalar head is new
        module: Any = BradleyTerryRewardModule(source, max_length=64)
    else:
        order, _, term = kind.partition(", ")
        settings = {
            "full": {"verdict_coef": 0.0, "language_coef": 1.0},
            "log_odds": {"logit_consistency_coef": 0.5},
            "language": {"language_coef": 0.5},
        }
        objective = Pairwise(**settings.get(term, {}))
        order = "both" if order == "both" else "random"
        module = GenerativeRewardModule(source, TEMPLATE, objective=objective, order=order, max_length=64)
    module.configure_model()
    module.log = lambda *_, **__: None  # there is no trainer
    return module


def loss(module: Any, pairs: list[PreferencePair]) -> float:
    encoder = module.build_encoder()
    torch.manual_seed(1)  # order: random draws
    return module.training_step(encoder.collate([encoder.encode(pair) for pair in pairs]), 0).item()


KINDS = ["both", "both, language", "both, full", "both, log_odds", "random", "random, language", "random, full"]


@pytest.mark.parametrize("kind", [*KINDS, "bradley_terry"])
def test_the_loss_is_the_weighted_mean(kind: str, tiny_folder: Any) -> None:
    module = make(kind, tiny_folder)
    first = PreferencePair(PROMPT, "bacd", "bcad")
    second = {"prompt": PROMPT, "chosen": "dcab", "rejected": "a"}
    plain = loss(module, [first, PreferencePair(**second)])
    alone = loss(module, [first])
    assert abs(plain - alone) > 1e-3
    negligible = loss(module, [first, PreferencePair(**second, weight=1e-9)])
    assert negligible == pytest.approx(alone, rel=1e-5)  # the batch's padding moves the last digits
    tripled = loss(module, [first, PreferencePair(**second, weight=3.0)])
    assert tripled == pytest.approx((alone + 3 * (2 * plain - alone)) / 4, rel=1e-5)
