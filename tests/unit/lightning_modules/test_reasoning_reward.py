"""Training of a judge that reasons: likelihoods of thoughts, gradients against enumeration, and critiques."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule, ReasoningRewardModule
from prl.config import ModelSource, Reasoning
from prl.data import PreferencePair
from prl.data.rows.row_errors import RowError
from prl.judge import GenerativeJudge, JudgeTemplate
from prl.judge.reasoning import thought_outputs
from prl.models.policy import verdict_margins
from prl.objectives.reward import Pairwise, ThoughtLikelihood, VerdictReward
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import write_tiny_model

TEMPLATE = JudgeTemplate(text="1 {{ response_a }} 2 {{ response_b }} {{ prompt }}", chat=False)
PROMPT = ({"role": "user", "content": "reverse dcab"},)
END = 1
PAIRS = [
    PreferencePair(PROMPT, "bacd", "bcad"),
    PreferencePair(PROMPT, "dcab", "a", 0.8, extra={"critique": "abc"}),
    PreferencePair(PROMPT, "ab", "cd", 0.5, extra={"critique": ["x", "yz"]}),
]


def make(tiny_folder: Any, max_tokens: int = 1, **settings: Any) -> ReasoningRewardModule:
    reasoning = Reasoning(max_tokens=max_tokens, temperature=settings.pop("temperature", 1.0), closing="\n")
    source = ModelSource(path=str(tiny_folder))
    module = ReasoningRewardModule(source, reasoning, TEMPLATE, max_length=64, **settings)
    module.configure_model()
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: float(value)})  # there is no trainer
    return module


def batch_of(module: ReasoningRewardModule, pairs: list[PreferencePair] = PAIRS) -> dict[str, Tensor]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(pair) for pair in pairs])


def every_thought(module: ReasoningRewardModule, reading: list[int]) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Margins [M] and log-probabilities [M] after every thought of one token at most, and these thoughts."""
    tokenizer = module.encoder.tokenizer
    barred = {tokenizer.pad_token_id, tokenizer.unk_token_id}
    thoughts = [[token] for token in range(len(tokenizer)) if token not in barred]
    ended = [thought == [END] for thought in thoughts]
    logits, logprobs = thought_outputs(module.model, [reading] * len(thoughts), thoughts, ended, module.reasoner)
    return verdict_margins(logits, module.verdict_ids), logprobs.sum(1), thoughts


def gradient(module: ReasoningRewardModule, loss: Tensor) -> Tensor:
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(module.model.parameters()))])


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_probabilities_of_all_thoughts_sum_to_one_and_are_those_of_the_draws(temperature, tiny_folder) -> None:
    module = make(tiny_folder, temperature=temperature)
    reading = module.encoder.encode(PAIRS[0])["chosen_first"]
    _, logprobs, thoughts = every_thought(module, reading)
    assert float(logprobs.exp().sum()) == pytest.approx(1, abs=1e-5)
    count = 3000
    found = module.reasoner.think(module.model, [reading], 100_000, samples=count, seed="some")
    numbers = {tuple(thought): place for place, thought in enumerate(thoughts)}
    drawn = torch.tensor([numbers[tuple(each.with_end)] for each in found]).bincount(minlength=len(thoughts))
    probability = logprobs.exp()
    error = (drawn - count * probability).square() / (count * probability)
    degrees = len(thoughts) - 1
    assert float(error.sum()) < degrees + 4 * math.sqrt(2 * degrees)  # chi-squared


@torch.no_grad()
def test_outputs_of_thoughts_of_all_lengths_are_those_of_passes_without_padding(tiny_folder) -> None:
    module = make(tiny_folder, max_tokens=4, temperature=0.8)
    readings = [module.encoder.encode(pair)["chosen_first"] for pair in PAIRS]
    thoughts, ended = [[END], [5, 6, 7, 8], [9, 10, END]], [True, False, True]
    logits, logprobs = thought_outputs(module.model, readings, thoughts, ended, module.reasoner)
    tokenizer = module.encoder.tokenizer
    for i, reading in enumerate(readings):
        expected = 0.0
        for step, token in enumerate(thoughts[i]):
            ids = torch.tensor([[*reading, *thoughts[i][:step]]])
            scaled = module.model(ids).logits[0, -1] / 0.8
            scaled[[tokenizer.pad_token_id, tokenizer.unk_token_id]] = -math.inf
            expected += float(scaled.log_softmax(-1)[token])
        assert float(logprobs[i].sum()) == pytest.approx(expected, abs=1e-5)
        written = thoughts[i][:-1] if ended[i] else thoughts[i]
        ids = torch.tensor([[*reading, *written, *tokenizer.encode("\n")]])
        assert_same_numbers(logits[i], module.model(ids).logits[0, -1])


def test_the_sampled_gradient_is_that_of_the_likelihood_over_all_thoughts(tmp_path) -> None:
    folder = write_tiny_model(tmp_path, initializer_range=0.8)  # wide, so that thoughts differ in what they lead to
    pair, found = PAIRS[:1], {}
    for name, objective, thoughts in (("likelihood", ThoughtLikelihood(), 1000), ("verdicts alone", Pairwise(), 300)):
        module = make(folder, objective=objective, thoughts=thoughts, max_batch_tokens=200_000)
        found[name] = gradient(module, module.training_step(batch_of(module, pair), 0))
    row = module.encoder.encode(PAIRS[0])
    losses = []
    for order, sign in (("chosen_first", 1), ("rejected_first", -1)):
        margins, logprobs, _ = every_thought(module, row[order])
        losses.append(-(logprobs + torch.nn.functional.logsigmoid(sign * margins)).logsumexp(0))
    exact = gradient(module, torch.stack(losses).mean())
    error = {name: float((each - exact).norm() / exact.norm()) for name, each in found.items()}
    assert error["likelihood"] < 0.2  # the error of 1000 thoughts
    assert error["verdicts alone"] > 0.3  # which any number of thoughts has


def test_the_kl_of_thoughts_has_the_gradient_of_the_divergence_from_the_start(tiny_folder) -> None:
    modules = [make(tiny_folder, objective=Pairwise(), thoughts=500, kl_coef=coef) for coef in (0.5, 0.0)]
    assert float(modules[0].training_step(batch_of(modules[0], PAIRS[:1]), 0)) == pytest.approx(
        float(modules[1].training_step(batch_of(modules[1], PAIRS[:1]), 0))
    )  # the model is its own start
    assert modules[0].logged["train/thought_kl"] == pytest.approx(0, abs=1e-6)
    for module in modules:
        with torch.no_grad():
            module.model.lm_head.weight[5:20] += 0.5
    gradients = [gradient(m, m.training_step(batch_of(m, PAIRS[:1]), 0)) for m in modules]
    row, exact = modules[0].encoder.encode(PAIRS[0]), []
    for order in ("chosen_first", "rejected_first"):
        _, now, thoughts = every_thought(modules[0], row[order])
        with torch.no_grad():
            ended = [each == [END] for each in thoughts]
            readings = [row[order]] * len(thoughts)
            _, then = thought_outputs(modules[0].reference, readings, thoughts, ended, modules[0].reasoner)
        exact.append((now.exp() * (now - then.sum(1))).sum())
    divergence = torch.stack(exact).mean()
    assert modules[0].logged["train/thought_kl"] == pytest.approx(float(divergence.detach()), rel=0.2)
    expected = gradient(modules[0], 0.5 * divergence)
    assert float((gradients[0] - gradients[1] - expected).norm() / expected.norm()) < 0.3
    saved = {name for name in modules[0].state_dict() if name not in modules[0].frozen_names()}
    assert not any(name.startswith("reference.") for name in saved)


def test_draws_of_a_step_are_those_of_its_number_and_the_readings(tiny_folder) -> None:
    module = make(tiny_folder, max_tokens=5, thoughts=3)
    batch = batch_of(module)
    first = module.training_step(batch, 0)
    torch.manual_seed(5)
    assert torch.equal(first, module.training_step(batch, 1))
    module._trainer = type("Trainer", (), {"global_step": 1, "accumulate_grad_batches": 1})()
    assert not torch.equal(first, module.training_step(batch, 0))
    assert 0 < module.logged["perf/thought_tokens"] <= 5


def test_the_order_that_is_drawn_for_a_pair_is_that_of_any_batch(tiny_folder) -> None:
    module = make(tiny_folder, order="random")
    pairs = [PreferencePair(PROMPT, "abcdefgh"[n // 5] + "abcde"[n % 5], "yz") for n in range(40)]
    _, together = module._chosen_rows(batch_of(module, pairs))
    torch.manual_seed(5)
    for half in (slice(0, 20), slice(20, 40)):  # as two processes would
        rows, chosen_first = module._chosen_rows(batch_of(module, pairs[half]))
        assert torch.equal(chosen_first, together[:, half])
        assert torch.equal(rows >= 20, ~chosen_first[0])
    assert 10 < int(together.sum()) < 30
    module._trainer = type("Trainer", (), {"global_step": 1, "accumulate_grad_batches": 1})()
    assert not torch.equal(module._chosen_rows(batch_of(module, pairs))[1], together)


def nll(module: ReasoningRewardModule, reading: list[int], critique: list[int]) -> tuple[float, Tensor]:
    """Mean negative log-likelihood of a critique with its end, and the margin behind it."""
    logits, logprobs = thought_outputs(module.model, [reading], [critique], [bool(critique)], module.reasoner)
    return -float(logprobs.sum()) / max(len(critique), 1), verdict_margins(logits, module.verdict_ids)[0]


@torch.no_grad()
@pytest.mark.parametrize("thoughts", [0, 2])
def test_critiques_are_learnt_where_rows_have_them(thoughts, tiny_folder) -> None:
    module = make(tiny_folder, max_tokens=5, thoughts=thoughts, critique_coef=0.5)
    without = make(tiny_folder, max_tokens=5, thoughts=thoughts, critique_coef=0.0)
    batch = batch_of(module)
    added = float(module.training_step(batch, 0) - without.training_step(batch, 0))
    tokenizer, expected, verdicts = module.encoder.tokenizer, 0.0, 0.0
    texts = [(None, None), ("abc", "abc"), ("x", "yz")]
    for pair, both in zip(PAIRS, texts, strict=True):
        row = module.encoder.encode(pair)
        orders = ("chosen_first", pair.preference), ("rejected_first", 1 - pair.preference)
        for (order, target), text in zip(orders, both, strict=True):
            ids = [] if text is None else [*tokenizer.encode(text), END]
            likelihood, margin = nll(module, row[order], ids)
            entropy = float(torch.nn.functional.binary_cross_entropy_with_logits(margin, torch.tensor(target)))
            expected += 0.0 if text is None else likelihood + (entropy if thoughts else 0.0)
            verdicts += entropy
    assert added == pytest.approx(0.5 * expected / 6, abs=1e-5)
    if not thoughts:  # the verdict is learnt after the critique, or after nothing
        assert float(without.training_step(batch, 0)) == pytest.approx(verdicts / 6, abs=1e-5)


@pytest.mark.parametrize(
    ("critique", "words"),
    [
        (3, "no critique"),
        (["one"], "no critique"),
        (["one", " "], "no critique"),
        ("abcdefgh", r"9 tokens with the end.*at most reasoning.max_tokens, 5"),
    ],
)
def test_a_critique_that_cannot_be_learnt_is_refused(critique, words, tiny_folder) -> None:
    module = make(tiny_folder, max_tokens=5)
    with pytest.raises(RowError, match=words):
        module.encoder.encode(PreferencePair(PROMPT, "a", "b", extra={"critique": critique}))


def test_a_critique_cannot_write_the_end_of_a_turn(tiny_folder) -> None:
    module = make(tiny_folder, max_tokens=9)
    row = module.encoder.encode(PreferencePair(PROMPT, "a", "b", extra={"critique": "<eos>"}))
    assert row["critique_chosen_first"] == [*module.encoder.tokenizer.encode("<eos>", split_special_tokens=True), END]
    assert row["critique_chosen_first"].count(END) == 1


@torch.no_grad()
def test_validation_judges_as_the_exported_judge(tiny_folder, tmp_path) -> None:
    module = make(tiny_folder, max_tokens=4)
    module.export(tmp_path)
    judge = GenerativeJudge.from_pretrained(str(tmp_path))
    assert judge.reasoning == module.reasoning
    verdict = module.verdict(batch_of(module))
    expected = judge.compare([PROMPT] * 3, [p.chosen for p in PAIRS], [p.rejected for p in PAIRS])
    assert_same_numbers(verdict.margin_ab, expected.margin_ab)
    assert_same_numbers(verdict.margin_ba, expected.margin_ba)


def test_what_does_not_fit_together_is_refused_before_a_model_is_read() -> None:
    source = ModelSource(path="nowhere")
    for settings, words in (
        ({"thoughts": 1}, "reads 2 thoughts of each reading at least, and thoughts is 1"),
        ({"thoughts": 0, "objective": VerdictReward()}, "none are sampled"),
        ({"thoughts": -1}, "thoughts is -1"),
        ({"kl_coef": -0.1}, "kl_coef is -0.1"),
        ({"critique_coef": float("nan")}, "critique_coef is nan"),
        ({"thoughts": 0, "kl_coef": 0.1}, "thoughts is 0; set kl_coef to 0"),
        ({"reasoning": Reasoning(temperature=0)}, "reasoning.temperature is 0"),
        ({"objective": Pairwise(language_coef=1.0)}, "reads logits of the verdict"),
    ):
        with pytest.raises(ValueError, match=words):
            ReasoningRewardModule(source, **settings)
    random = ModelSource(config={"model_type": "llama"}, tokenizer="nowhere")
    with pytest.raises(ValueError, match="the model has random weights .*, so there is no start to read"):
        ReasoningRewardModule(random, kl_coef=0.1)
    for kind in (GenerativeRewardModule, BradleyTerryRewardModule):
        with pytest.raises(ValueError, match="ThoughtLikelihood reads .*thoughts"):
            kind(source, objective=ThoughtLikelihood())
