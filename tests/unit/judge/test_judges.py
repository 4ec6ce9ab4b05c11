import json
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prl.judge import BradleyTerryJudge, ComparisonEncoder, GenerativeJudge, JudgeTemplate
from prl.judge.base import PairwiseJudge
from prl.judge.batched import batched_margins
from prl.judge.bradley_terry import save_bradley_terry
from prl.judge.files import save_judge
from prl.models.policy import verdict_logits, verdict_margins
from prl.rewards.folder import JUDGE_FILE
from prl.rewards.scalar import head_rewards, weighted_reward
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import ConstantJudge, LengthJudge, PositionJudge, tiny_model, tiny_tokenizer

TEMPLATE = JudgeTemplate("{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?")


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def some_comparisons(number: int) -> list[tuple[list[dict[str, str]], str, str]]:
    draw = random.Random(0)

    def text(longest: int) -> str:
        return "".join(draw.choices("abcdef", k=draw.randint(1, longest)))

    return [(turn(text(12)), text(30), text(30)) for _ in range(number)]


@pytest.fixture(scope="module")
def encoder() -> ComparisonEncoder:
    return ComparisonEncoder(tiny_tokenizer(), TEMPLATE, max_length=96)


@pytest.fixture(scope="module")
def generative_folder(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("judges") / "generative"
    save_judge(folder, tiny_model(1), encoder.tokenizer, encoder, temperature=1.25)
    return folder


@pytest.fixture(scope="module")
def scalar_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges") / "scalar"
    save_bradley_terry(folder, tiny_model(2, AutoModelForSequenceClassification, num_labels=1), tiny_tokenizer(), 64)
    return folder


@pytest.fixture(params=["generative", "bradley_terry"])
def judge(request, generative_folder, scalar_folder) -> PairwiseJudge:
    chosen = (
        GenerativeJudge(str(generative_folder))
        if request.param == "generative"
        else BradleyTerryJudge(str(scalar_folder))
    )
    chosen.load()
    return chosen


def readings(encoder: ComparisonEncoder) -> list[list[int]]:
    return [encoder.compare(*comparison)[0] for comparison in some_comparisons(17)]


def single_margins(model, rows, verdict_ids) -> torch.Tensor:
    """Each reading alone, without padding and through transformers only."""
    logits = torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])
    return logits[:, verdict_ids[0]] - logits[:, verdict_ids[1]]


@torch.no_grad()
def test_margins_do_not_depend_on_batch_size_or_batch_mates(encoder) -> None:
    model, rows = tiny_model(1), readings(encoder)
    alone = single_margins(model, rows, encoder.verdict_ids)
    assert alone.std() > 0.1  # otherwise equality would say nothing
    for max_tokens in (1, 100, 300, 100_000):
        assert_same_numbers(batched_margins(model, rows, encoder, max_tokens), alone)
    backwards = batched_margins(model, rows[::-1], encoder, 300).flip(0)
    assert_same_numbers(backwards, alone)


@torch.no_grad()
@pytest.mark.parametrize("extra", [0, 1, 13])
def test_margins_do_not_depend_on_the_padding_side(encoder, extra) -> None:
    model, rows = tiny_model(1), readings(encoder)
    alone = single_margins(model, rows, encoder.verdict_ids)
    width = max(map(len, rows)) + extra
    ids = torch.full((2, len(rows), width), encoder.tokenizer.pad_token_id)
    mask = torch.zeros(2, len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        for side, places in enumerate((slice(width - len(row), width), slice(0, len(row)))):
            ids[side, i, places] = torch.tensor(row)
            mask[side, i, places] = True
    for side in range(2):
        margins = verdict_margins(verdict_logits(model, ids[side], mask[side]), torch.tensor(encoder.verdict_ids))
        assert_same_numbers(margins, alone)


def test_compare_reads_both_orders(judge) -> None:
    comparisons = some_comparisons(6)
    prompts, a, b = (list(column) for column in zip(*comparisons, strict=True))
    verdict = judge.compare(prompts, a, b)
    assert_same_numbers(verdict.margin_ab, judge.margins(comparisons))
    assert_same_numbers(verdict.margin_ba, judge.margins([(p, v, u) for p, u, v in comparisons]))


def test_swapping_the_responses_gives_one_minus_the_probability(judge) -> None:
    prompts, a, b = (list(column) for column in zip(*some_comparisons(9), strict=True))
    there, back = judge.compare(prompts, a, b).win_logit, judge.compare(prompts, b, a).win_logit
    assert_same_numbers(there, -back)
    assert there.abs().max() > 0.05


def test_a_response_against_itself_is_exactly_one_half(judge) -> None:
    # Among other pairs of other lengths, and more than once.
    comparisons = some_comparisons(8)
    prompts = [p for p, _, _ in comparisons] * 2
    a = [u for _, u, _ in comparisons] * 2
    b = [v for _, _, v in comparisons] + [u for _, u, _ in comparisons]
    prob = judge.compare(prompts, a, b).win_prob
    assert prob[8:].tolist() == [0.5] * 8
    assert 0.5 not in prob[:8].tolist()


def test_equal_readings_are_read_once() -> None:
    class Counting(LengthJudge):
        def margins(self, comparisons):
            self.read = comparisons
            return super().margins(comparisons)

    counting = Counting()
    prompts = [turn("x"), turn("x"), turn("y"), turn("x")]
    verdict = counting.compare(prompts, ["aa", "b", "aa", "aa"], ["b", "aa", "b", "aa"])
    assert len(counting.read) == 5  # x: aa b, b aa, aa aa; y: aa b, b aa
    assert verdict.margin_ab.tolist() == [1.0, -1.0, 1.0, 0.0]
    assert verdict.margin_ba.tolist() == [-1.0, 1.0, -1.0, 0.0]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 prompts, 2 responses a and 1 responses b"):
        ConstantJudge().compare([turn("x")], ["a", "b"], ["c"])


def test_no_pairs_give_an_empty_verdict() -> None:
    assert len(ConstantJudge().compare([], [], [])) == 0


def test_planted_judges() -> None:
    prompts, a, b = [turn("x")] * 2, ["abc", "d"], ["e", "fg"]
    assert LengthJudge(0.5).compare(prompts, a, b).win_logit.tolist() == [1.0, -0.5]
    position = PositionJudge(3.0).compare(prompts, a, b)
    assert position.win_prob.tolist() == [0.5, 0.5]
    assert position.position_bias.tolist() == [3.0, 3.0]


def test_the_margin_of_the_scalar_judge_is_a_difference_of_rewards(scalar_folder) -> None:
    judge = BradleyTerryJudge(str(scalar_folder), batch_size=3)
    judge.load()
    comparisons = some_comparisons(7)
    model = AutoModelForSequenceClassification.from_pretrained(scalar_folder)
    tokenizer = AutoTokenizer.from_pretrained(scalar_folder)

    def reward(prompt, response) -> float:  # transformers only: one row, no padding
        text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": response}], tokenize=False)
        return model(**tokenizer(text, return_tensors="pt")).logits.item()

    expected = [reward(p, u) - reward(p, v) for p, u, v in comparisons]
    assert judge.margins(comparisons).tolist() == pytest.approx(expected, abs=1e-5)
    assert judge.compare([turn("x")], ["ab"], ["c"]).position_bias.item() == 0.0


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_scalar_rewards_do_not_depend_on_the_padding_side(side) -> None:
    model = tiny_model(2, AutoModelForSequenceClassification, num_labels=1)
    tokenizer = tiny_tokenizer()
    texts = ["abc<eos>", "d<eos>", "efghij<eos>"]
    alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits[:, 0] for text in texts])
    tokenizer.padding_side = side
    padded = tokenizer(texts, return_tensors="pt", padding=True)
    rewards = head_rewards(model, padded["input_ids"], padded["attention_mask"].bool())
    assert_same_numbers(weighted_reward(rewards), alone)


def test_generative_judge_round_trip(generative_folder, tmp_path) -> None:
    judge = GenerativeJudge.from_pretrained(str(generative_folder))
    judge.save_pretrained(tmp_path / "again")
    again = GenerativeJudge.from_pretrained(str(tmp_path / "again"))
    comparisons = some_comparisons(9)
    assert torch.equal(judge.margins(comparisons), again.margins(comparisons))
    assert again.temperature == 1.25
    assert again.encoder.template == TEMPLATE
    assert again.encoder.max_length == 96
    assert (tmp_path / "again" / JUDGE_FILE).read_text() == (generative_folder / JUDGE_FILE).read_text()


def test_generative_judge_is_an_ordinary_causal_language_model(generative_folder, encoder) -> None:
    model = AutoModelForCausalLM.from_pretrained(generative_folder)
    comparisons = some_comparisons(9)
    expected = single_margins(model, [encoder.compare(*c)[0] for c in comparisons], encoder.verdict_ids) / 1.25
    found = GenerativeJudge.from_pretrained(str(generative_folder)).margins(comparisons)
    assert_same_numbers(found, expected.detach())


def test_scalar_judge_is_an_ordinary_classifier_with_one_label(scalar_folder) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(scalar_folder)
    assert model.config.num_labels == 1
    original = tiny_model(2, AutoModelForSequenceClassification, num_labels=1).state_dict()
    assert model.state_dict().keys() == original.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, original[name]), name


def test_scalar_judge_round_trip(scalar_folder, tmp_path) -> None:
    judge = BradleyTerryJudge(str(scalar_folder))
    judge.load()
    save_bradley_terry(tmp_path, judge.model, judge.encoder.tokenizer, judge.encoder.max_length)
    again = BradleyTerryJudge(str(tmp_path))
    again.load()
    comparisons = some_comparisons(9)
    assert torch.equal(judge.margins(comparisons), again.margins(comparisons))


def test_judges_are_frozen_and_load_once(judge) -> None:
    model = judge.model
    judge.load()
    assert judge.model is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_kind_of_judge_is_checked(generative_folder, scalar_folder) -> None:
    with pytest.raises(ValueError, match="holds a bradley_terry judge, not a generative one"):
        GenerativeJudge.from_pretrained(str(scalar_folder))
    with pytest.raises(ValueError, match="holds a generative judge, not a Bradley-Terry one"):
        BradleyTerryJudge(str(generative_folder)).load()


def test_the_settings_say_what_the_judge_reads(generative_folder, encoder) -> None:
    settings = json.loads((generative_folder / JUDGE_FILE).read_text())
    assert settings["template_fingerprint"] == TEMPLATE.fingerprint
    assert settings["verdict_ids"] == list(encoder.verdict_ids)


def test_a_tokenizer_that_writes_the_verdicts_otherwise_is_refused(generative_folder, tmp_path) -> None:
    folder = Path(shutil.copytree(generative_folder, tmp_path / "judge"))
    settings = json.loads((folder / JUDGE_FILE).read_text())
    before = settings["verdict_ids"]
    (folder / JUDGE_FILE).write_text(json.dumps({**settings, "verdict_ids": before[::-1]}))
    with pytest.raises(ValueError, match=re.escape(f"as tokens {before}, in training they were {before[::-1]}")):
        GenerativeJudge.from_pretrained(str(folder))


def test_a_template_is_more_than_its_text() -> None:
    with pytest.raises(TypeError, match=r"give a JudgeTemplate\(text\)"):
        GenerativeJudge("folder", template="{{ prompt }}")  # type: ignore[arg-type]
