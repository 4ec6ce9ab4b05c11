"""The settings of a judge's training: what each adds to the loss, and what the language head is asked for."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule
from prl.config import ModelSource
from prl.data import PreferencePair
from prl.judge.template import JudgeTemplate
from prl.objectives.reward import BradleyTerry, Pairwise

TEMPLATE = JudgeTemplate(text="p {{ prompt }} 1 {{ response_a }} 2 {{ response_b }} best", chat=False)
PROMPT = ({"role": "user", "content": "reverse dcab"},)
PAIRS = [  # labels: certain, soft, a tie
    PreferencePair(PROMPT, "bacd", "bcad"),
    PreferencePair(PROMPT, "dcab", "a", 0.8),
    PreferencePair(PROMPT, "ab", "cd", 0.5),
]
TARGETS = torch.tensor([1.0, 0.8, 0.5])


def make(tiny_folder: Any, **settings: Any) -> GenerativeRewardModule:
    module = GenerativeRewardModule(ModelSource(path=str(tiny_folder)), TEMPLATE, max_length=64, **settings)
    module.configure_model()
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: float(value)})  # there is no trainer
    return module


TERMS: dict[str, dict[str, float]] = {
    "two tokens": {},
    "full vocabulary": {"verdict_coef": 0.0, "language_coef": 1.0},
}


def batch_of(module: Any) -> dict[str, Tensor]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(pair) for pair in PAIRS])


def loss(tiny_folder: Any, **settings: Any) -> float:
    module = make(tiny_folder, **settings)
    torch.manual_seed(1)  # order: random draws
    return module.training_step(batch_of(module), 0).item()


@pytest.fixture
def logprobs(tiny_folder: Any) -> Tensor:
    """Log-probabilities of the whole vocabulary after each of the six readings, by a plain forward pass per reading."""
    module = make(tiny_folder)
    batch = batch_of(module)
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    with torch.no_grad():
        logits = [module.model(input_ids=ids[mask][None]).logits[0, -1] for ids, mask in rows]
    return torch.stack(logits).log_softmax(-1)[:, module.verdict_ids]


def cross_entropy(logprobs: Tensor, first_is_better: Tensor) -> Tensor:
    return -(first_is_better * logprobs[:, 0] + (1 - first_is_better) * logprobs[:, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("terms", TERMS)
def test_both_orders_of_certain_soft_and_tied_pairs(terms, smoothing, tiny_folder, logprobs) -> None:
    targets = (1 - smoothing) * TARGETS + smoothing * (1 - TARGETS)
    if terms == "two tokens":
        logprobs = logprobs.log_softmax(-1)
    expected = cross_entropy(logprobs, torch.cat([targets, 1 - targets])).mean().item()
    objective = Pairwise(label_smoothing=smoothing, **TERMS[terms])
    assert loss(tiny_folder, objective=objective) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("terms", TERMS)
def test_random_order_reads_each_pair_one_way(terms, smoothing, tiny_folder, logprobs) -> None:
    targets = (1 - smoothing) * TARGETS + smoothing * (1 - TARGETS)
    if terms == "two tokens":
        logprobs = logprobs.log_softmax(-1)
    each = cross_entropy(logprobs, torch.cat([targets, 1 - targets])).view(2, 3)
    torch.manual_seed(1)
    swapped = torch.rand(3) < 0.5
    assert swapped.any()
    assert not swapped.all()
    expected = torch.where(swapped, each[1], each[0]).mean().item()
    objective = Pairwise(label_smoothing=smoothing, **TERMS[terms])
    assert loss(tiny_folder, order="random", objective=objective) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["consistency_coef", "logit_consistency_coef"])
@pytest.mark.parametrize("terms", TERMS)
def test_consistency_is_added_in_either_form(name, terms, tiny_folder, logprobs) -> None:
    first, second = (logprobs[:, 0] - logprobs[:, 1]).chunk(2)
    gap = first + second if name == "logit_consistency_coef" else first.sigmoid() + second.sigmoid() - 1
    plain = loss(tiny_folder, objective=Pairwise(**TERMS[terms]))
    found = loss(tiny_folder, objective=Pairwise(**TERMS[terms], **{name: 0.5}))
    assert found - plain == pytest.approx(0.5 * gap.square().mean().item(), abs=1e-5)
    assert found > plain + 1e-4


def test_the_text_term_is_the_mean_over_tokens_from_the_first_response_on(tiny_folder: Any) -> None:
    module = make(tiny_folder)
    batch, nlls = batch_of(module), []
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    for number, (ids, mask) in enumerate(rows):
        ids = ids[mask]
        text = module.build_encoder().tokenizer.decode(ids)
        shown = PAIRS[number % 3].chosen if number < 3 else PAIRS[number % 3].rejected
        start = text.index(f"1 {shown} 2") + len("1 ")  # a character is a token here
        assert len(text) == len(ids)
        with torch.no_grad():
            logprobs = module.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        nlls.append(-logprobs.gather(1, ids[1:, None])[start - 1 :, 0])
    learnt = loss(tiny_folder, text_coef=0.7) - loss(tiny_folder)
    assert learnt == pytest.approx(0.7 * torch.cat(nlls).mean().item(), abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bradley_terry_of_certain_soft_and_tied_pairs(smoothing: float, tiny_folder: Any) -> None:
    torch.manual_seed(0)  # the scalar head is new
    source = ModelSource(path=str(tiny_folder))
    module: Any = BradleyTerryRewardModule(source, objective=BradleyTerry(smoothing), max_length=64)
    module.configure_model()
    module.log = lambda *_, **__: None
    batch = batch_of(module)
    margin = module.verdict(batch).win_logit.detach()
    targets = (1 - smoothing) * TARGETS + smoothing * (1 - TARGETS)
    expected = cross_entropy(torch.stack([margin, 0 * margin], dim=1).log_softmax(1), targets).mean().item()
    assert margin.abs().min() > 1e-3
    assert module.training_step(batch, 0).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("order", ["both", "random"])
def test_training_numbers_exist_in_either_order(order, tiny_folder, logprobs) -> None:
    module = make(tiny_folder, order=order)
    torch.manual_seed(1)
    module.training_step(batch_of(module), 0)
    first, second = (logprobs[:, 0] - logprobs[:, 1]).chunk(2)
    torch.manual_seed(1)
    margin = torch.where(torch.rand(3) < 0.5, -second, first) if order == "random" else (first - second) / 2
    assert module.logged["train/accuracy"] == pytest.approx(float((margin[:2] > 0).float().mean()))
    assert module.logged["train/margin"] == pytest.approx(float(((2 * TARGETS - 1) * margin).mean()), abs=1e-5)
    assert module.logged["train/verdict_loss"] == module.logged["train/loss"]


@pytest.fixture
def rows_of_the_head(tiny_folder: Any) -> Iterator[tuple[GenerativeRewardModule, list[int]]]:
    """Build a judge, and record the positions of its language head in each pass."""
    module = make(tiny_folder)
    seen: list[int] = []
    handle = module.model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0][..., 0].numel()))
    yield module, seen
    handle.remove()


@pytest.mark.parametrize(("order", "rows"), [("both", 6), ("random", 3)])
def test_the_language_head_runs_on_one_position_of_each_reading(order, rows, rows_of_the_head) -> None:
    module, seen = rows_of_the_head
    module.order = order
    module.verdict(batch_of(module))  # the first time the model is tried with branches too
    seen.clear()
    module.training_step(batch_of(module), 0)
    module.verdict(batch_of(module))
    assert seen == [rows, 6]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text_coef": float("nan")}, "text_coef is nan; expected a finite number of at least 0"),
        ({"text_coef": 1.0, "order": "random"}, "text_coef is 1.0 with order: random; it needs order: both"),
    ],
)
def test_settings_that_contradict_each_other_or_mean_nothing(settings, words, tiny_folder) -> None:
    with pytest.raises(ValueError, match=words):
        GenerativeRewardModule(ModelSource(path=str(tiny_folder)), TEMPLATE, **settings)


@pytest.mark.parametrize("stage", [GenerativeRewardModule, BradleyTerryRewardModule])
def test_a_checkpoint_is_of_one_length(stage, tiny_folder) -> None:
    one, same, other = (stage(ModelSource(path=str(tiny_folder)), max_length=length) for length in (300, 300, 299))
    for module in (one, same, other):
        module.configure_model()
    checkpoint: dict[str, Any] = {"state_dict": one.state_dict()}
    one.on_save_checkpoint(checkpoint)
    same.restore(dict(checkpoint), "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt was trained with other .*\n- max_length: 300 in training, 299 now"):
        other.restore(dict(checkpoint), "a.ckpt")
