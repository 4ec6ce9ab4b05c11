"""Thoughts before the verdict: how they are sampled, closed, averaged, counted and saved."""

import hashlib
import json
import math
import shutil
from dataclasses import asdict

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from prl.config import JudgeGate, Reasoning
from prl.data import PreferencePair
from prl.evaluation.bootstrap import Interval
from prl.judge import ComparisonEncoder, GenerativeJudge, JudgeTemplate, StoredJudge
from prl.judge.calibrated import Calibration, write_calibrated
from prl.judge.examination import judge_pairs, layout_gap
from prl.judge.files import save_judge
from prl.judge.gate import folder_problems
from prl.judge.loading import load_judge
from prl.judge.passport import describe_judge
from prl.judge.reasoning import ThoughtSampler, thought_outputs
from prl.rewards.folder import JUDGE_FILE, read_judge_file
from prl.verdict import mean_margin
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import tiny_model, tiny_tokenizer
from tests.unit.judge.test_judges import some_comparisons, turn

TEMPLATE = JudgeTemplate("1:{{ response_a }}\n2:{{ response_b }}\n{{ prompt }}", chat=False, answer_prefix="=")
ENDS = [1, *range(30, 50)]
SETTINGS = Reasoning(max_tokens=5, samples=3, closing="\n")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Write a judge whose model folder names many end tokens, so that some thoughts end before their limit."""
    model = tiny_model(1)
    model.generation_config.eos_token_id = ENDS
    folder = tmp_path_factory.mktemp("judge")
    encoder = ComparisonEncoder(tokenizer, TEMPLATE, 96, closing=SETTINGS.closing)
    save_judge(folder, model, tokenizer, encoder, reasoning=SETTINGS)
    return folder


@pytest.fixture
def judge(folder) -> GenerativeJudge:
    return GenerativeJudge.from_pretrained(str(folder))


def by_hand(judge: GenerativeJudge, comparison) -> torch.Tensor:
    """Margins of one reading after each of its thoughts: token by token, without cache, padding or `generate`."""
    tokenizer, encoder, settings = judge.encoder.tokenizer, judge.encoder, judge.reasoning
    opening = encoder.compare(*comparison)[0]
    found = []
    for number in range(settings.samples):
        name = json.dumps([settings.seed, opening, number])
        digest = hashlib.sha256(name.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        draws = torch.rand(settings.max_tokens, generator=generator, dtype=torch.float64)
        ids = list(opening)
        for step in range(settings.max_tokens):
            logits = judge.model(torch.tensor([ids])).logits[0, -1].double() / settings.temperature
            logits[[tokenizer.pad_token_id, tokenizer.unk_token_id]] = -math.inf
            cumulative = logits.softmax(-1).cumsum(-1)
            token = int((cumulative > draws[step]).nonzero()[0])
            if token in ENDS:
                break
            ids.append(token)
        ids += tokenizer.encode(settings.closing + TEMPLATE.answer_prefix)
        logits = judge.model(torch.tensor([ids])).logits[0, -1]
        first, second = encoder.verdict_ids
        found.append(logits[first] - logits[second])
    return torch.stack(found)


@torch.no_grad()
def test_a_verdict_is_the_mean_of_those_after_thoughts_that_are_sampled_token_by_token(judge) -> None:
    comparisons = some_comparisons(7)
    margins = judge.margins(comparisons)
    expected = torch.stack([by_hand(judge, each) for each in comparisons])
    assert_same_numbers(judge.reasons_of(comparisons).margins, expected)
    mean = torch.sigmoid(expected.double()).mean(-1)
    assert_same_numbers(margins, mean.logit().float())
    assert expected.std(1).min() > 0.01  # thoughts differ, and so do the verdicts after them
    unfinished = judge.reasons_of(comparisons).unfinished
    assert unfinished.any()
    assert not unfinished.all()
    assert judge.reasoner.counts.unfinished_fraction == pytest.approx(unfinished.float().mean())
    tokens = judge.reasons_of(comparisons).tokens
    assert judge.reasoner.counts.tokens_per_reading == pytest.approx(tokens.float().sum(1).mean())
    assert (tokens[unfinished] == SETTINGS.max_tokens).all()


def test_verdicts_do_not_depend_on_the_batch(judge) -> None:
    comparisons = some_comparisons(9)
    together = judge.margins(comparisons)
    alone = torch.cat([judge.margins([each]) for each in reversed(comparisons)]).flip(0)
    assert_same_numbers(alone, together)
    judge.max_batch_tokens = 150
    assert_same_numbers(judge.margins(comparisons), together)
    assert torch.equal(judge.margins(comparisons), judge.margins(comparisons))  # nothing is drawn from a global state


def test_another_draw_in_another_batch_is_no_gap_of_the_layout(judge, monkeypatch) -> None:
    pairs = [PreferencePair(prompt, first, second) for prompt, first, second in some_comparisons(6)]
    sample = judge.reasoner.sampler.sample
    monkeypatch.setattr(  # as rounding would at the edge between two tokens
        judge.reasoner.sampler, "sample", lambda m, r, names, most: sample(m, r, [f"{n} {len(r)}" for n in names], most)
    )
    comparisons = some_comparisons(6)
    together = judge.margins(comparisons)
    assert float((torch.cat([judge.margins([each]) for each in comparisons]) - together).abs().max()) > 0.01
    counted = judge.reasoner.counts.readings
    assert layout_gap(judge, pairs) < 1e-4
    assert judge.reasoner.counts.readings == counted + 12
    assert judge.reasoner._kept is None


def test_a_response_against_itself_is_exactly_one_half(judge) -> None:
    comparisons = some_comparisons(5)
    prompts = [p for p, _, _ in comparisons] * 2
    a = [u for _, u, _ in comparisons] * 2
    b = [v for _, _, v in comparisons] + [u for _, u, _ in comparisons]
    assert judge.compare(prompts, a, b).win_prob[5:].tolist() == [0.5] * 5


def test_the_seed_changes_thoughts_and_one_likeliest_thought_needs_none(folder) -> None:
    comparisons = some_comparisons(5)
    seeds = [Reasoning(max_tokens=5, seed=seed, closing="\n") for seed in (0, 0, 1)]
    first, again, other = (load_judge(folder, reasoning=each).margins(comparisons) for each in seeds)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    greedy = [Reasoning(max_tokens=5, temperature=0, seed=seed, closing="\n") for seed in (0, 1)]
    cold = Reasoning(max_tokens=5, temperature=1e-4, closing="\n")
    likeliest, same, limit = (load_judge(folder, reasoning=each).margins(comparisons) for each in (*greedy, cold))
    assert torch.equal(likeliest, same)
    assert_same_numbers(likeliest, limit)


def test_settings_go_with_the_folder_and_into_the_passport(folder, tmp_path, tokenizer) -> None:
    judge = GenerativeJudge.from_pretrained(str(folder))
    assert judge.reasoning == SETTINGS
    judge.save_pretrained(tmp_path / "again")
    again = GenerativeJudge.from_pretrained(str(tmp_path / "again"))
    comparisons = some_comparisons(4)
    assert torch.equal(judge.margins(comparisons), again.margins(comparisons))
    assert (tmp_path / "again" / JUDGE_FILE).read_text() == (folder / JUDGE_FILE).read_text()
    described = describe_judge(folder)
    assert described["reasoning"]["samples"] == 3
    other = GenerativeJudge(str(folder), reasoning=Reasoning(max_tokens=6, closing="\n"))
    assert other.described_otherwise()["reasoning"]["max_tokens"] == 6
    direct = tmp_path / "direct"
    save_judge(direct, tiny_model(1), tokenizer, ComparisonEncoder(tokenizer, TEMPLATE, 96))
    assert "reasoning" not in describe_judge(direct)
    assert "reasoning" not in json.loads((direct / JUDGE_FILE).read_text())


def test_a_calibrated_judge_thinks_as_it_was_measured(folder, tmp_path) -> None:
    judge = GenerativeJudge.from_pretrained(str(folder), reasoning=Reasoning(max_tokens=3, samples=2, closing="\n"))
    half, none = Interval(2.0, 2.0, 2.0), Interval(0.5, 0.5, 0.5)
    write_calibrated(judge, str(folder), tmp_path / "calibrated", Calibration(half, none))
    again = GenerativeJudge.from_pretrained(str(tmp_path / "calibrated"))
    assert again.reasoning == judge.reasoning
    comparisons = some_comparisons(4)
    assert_same_numbers(again.margins(comparisons), (judge.margins(comparisons) - 0.5) / 2)


def test_a_table_by_tokens_that_a_store_cannot_give_is_told(judge, tmp_path, caplog) -> None:
    pairs = [PreferencePair(prompt, first, second) for prompt, first, second in some_comparisons(3)]
    assert judge_pairs(judge, pairs).reasons is not None
    assert not caplog.records
    kept = StoredJudge(judge, str(tmp_path))
    kept.load()
    assert judge_pairs(kept, pairs).reasons is None
    assert "StoredJudge keeps margins without the thoughts behind them, so the report has no table" in caplog.text


def test_the_passport_of_one_way_of_judging_is_not_that_of_another(folder, tmp_path) -> None:
    measured = shutil.copytree(folder, tmp_path / "judge")
    passport = {"format": 1, "judge": describe_judge(measured), "data": {}, "report": {"num_pairs": 1, "num_ties": 0}}
    (measured / "rm_passport.json").write_text(json.dumps(passport))
    gate = JudgeGate(min_pairs=0)

    def complaints(reasoning: Reasoning | None = None) -> list[str]:
        own = {} if reasoning is None else {"reasoning": asdict(reasoning)}
        return [each for each in folder_problems(str(measured), gate, otherwise=own) if "not the judge" in each]

    assert not complaints()
    assert not complaints(SETTINGS)
    (told,) = complaints(Reasoning(max_tokens=6, samples=3, closing="="))
    assert "reasoning.max_tokens is 6, but the passport was written with 5; reasoning.closing is '=', but" in told
    assert "samples" not in told
    settings = json.loads((measured / JUDGE_FILE).read_text())
    del settings["reasoning"]["seed"]  # another program may leave the default out
    (measured / JUDGE_FILE).write_text(json.dumps(settings))
    judge = GenerativeJudge(str(measured))
    for _ in range(2):
        assert not [
            each
            for each in folder_problems(str(measured), gate, otherwise=judge.described_otherwise())
            if "not the judge" in each
        ]
        judge.load()
    del settings["reasoning"]
    (measured / JUDGE_FILE).write_text(json.dumps(settings))
    assert "reasoning is missing, but the passport was written with max_tokens 5, samples 3" in complaints()[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "expected an object"),
        ({"most": 1}, "expected an object of"),
        ({"max_tokens": 2.5}, "reasoning.max_tokens is 2.5"),
        ({"samples": 0}, "reasoning.samples is 0"),
        ({"closing": 1}, "reasoning.closing is 1"),
    ],
)
def test_a_damaged_settings_file_is_refused(folder, tmp_path, given, words) -> None:
    broken = shutil.copytree(folder, tmp_path / "judge")
    settings = json.loads((broken / JUDGE_FILE).read_text())
    (broken / JUDGE_FILE).write_text(json.dumps({**settings, "reasoning": given}))
    with pytest.raises(ValueError, match=words):
        read_judge_file(broken)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_tokens": 0}, "reasoning.max_tokens is 0"),
        ({"max_tokens": 12.5}, "reasoning.max_tokens is 12.5; expected a whole number"),
        ({"samples": True}, "reasoning.samples is True"),
        ({"seed": -1}, "reasoning.seed is -1; expected a whole number of at least 0"),
        ({"samples": 2, "temperature": 0}, "reasoning.samples is 2; expected 1 at a temperature of 0"),
        ({"temperature": float("nan")}, "reasoning.temperature is nan"),
        ({"closing": ""}, "reasoning.closing is ''"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        Reasoning(**settings)


def test_what_cannot_be_combined_is_refused(folder, tmp_path) -> None:
    for setting in ({"prefix_cache_gib": 1.0}, {"share_base_model": True}):
        with pytest.raises(ValueError, match=f"{next(iter(setting))} is .* of a judge that reasons"):
            GenerativeJudge(str(folder), reasoning=SETTINGS, **setting)
    with pytest.raises(ValueError, match="prefix_cache_gib is 1.0 of a judge that reasons"):
        GenerativeJudge.from_pretrained(str(folder), prefix_cache_gib=1.0)
    with pytest.raises(ValueError, match="has 512 positions, but max_length, reasoning.max_tokens and the closing"):
        GenerativeJudge.from_pretrained(str(folder), reasoning=Reasoning(max_tokens=500, closing="\n"))


def test_a_model_that_was_no_judge_thinks_by_the_default_template(tmp_path, tokenizer) -> None:
    tiny_model(1, max_position_embeddings=700).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = GenerativeJudge.from_pretrained(str(tmp_path), reasoning=Reasoning(max_tokens=4))
    assert "Reason about it first" in judge.encoder.template.text
    closing = len(Reasoning().closing)
    assert judge.encoder.max_length == 700 - 4 - closing  # so that a thought has positions of its own
    margins = judge.margins([(turn("x" * 300), "a" * 300, "b" * 300), (turn("x"), "a", "b")])
    assert margins.isfinite().all()
    assert judge.truncated_fraction() == 0.5
    asked = {"template_fingerprint": judge.encoder.template.fingerprint, "reasoning": asdict(judge.reasoning)}
    assert GenerativeJudge(str(tmp_path), reasoning=judge.reasoning).described_otherwise() == asked
    assert judge.described_otherwise() == asked
    for most in (690, 2000):
        with pytest.raises(ValueError, match=f"reasoning.max_tokens is {most}; .* of the 700 positions of the judge"):
            GenerativeJudge.from_pretrained(str(tmp_path), reasoning=Reasoning(max_tokens=most))
    needed = judge.encoder.compiled.num_literal_tokens + 12
    edge = Reasoning(max_tokens=700 - closing - needed)
    assert GenerativeJudge.from_pretrained(str(tmp_path), reasoning=edge).encoder.max_length == needed


def test_thoughts_that_a_chat_template_opens_are_ended_once_before_the_closing(tmp_path, tokenizer) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    tiny_model(1, max_position_embeddings=900, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = GenerativeJudge.from_pretrained(str(tmp_path), reasoning=Reasoning(max_tokens=3))
    assert "</think>" not in judge.encoder.template.answer_prefix
    opening, closing = judge.encoder.compare(turn("x"), "a", "b")[0], Reasoning().closing
    assert tokenizer.decode(opening).endswith("<think>")
    for thought, text in (("abc", "abc\n</think>"), ("ab</think>c", "ab</think>c")):
        read = judge.reasoner.closed(opening, tokenizer.encode(thought))
        assert tokenizer.decode(read[len(opening) :]) == text + closing
    assert judge.encoder.max_length == 900 - 3 - len(tokenizer.encode("\n</think>")) - len(closing)
    thoughts = [tokenizer.encode(each) for each in ("abc", "a</think>", "")]
    logits, logprobs = thought_outputs(judge.model, [opening] * 3, thoughts, [False] * 3, judge.reasoner)
    for i, thought in enumerate(thoughts):
        alone = thought_outputs(judge.model, [opening], [thought], [False], judge.reasoner)
        assert_same_numbers(logits[i], alone[0][0])
        assert_same_numbers(logprobs[i].sum(), alone[1].sum())
    assert judge.margins([(turn("x"), "a", "b")]).isfinite().all()


def test_unlikely_and_certain_verdicts_are_averaged_without_overflow() -> None:
    margins = torch.tensor([[200.0, -200.0], [300.0, 300.0], [-90.0, -80.0], [1e-3, -1e-3]], dtype=torch.float64)
    assert mean_margin(margins).tolist() == pytest.approx(
        [0.0, 300.0, -80 - math.log(2) + math.log1p(math.exp(-10)), 0.0]
    )
    assert torch.equal(mean_margin(-margins), -mean_margin(margins))
    one = torch.randn(5, 1)
    assert torch.equal(mean_margin(one), one[:, 0])


def test_weights_that_are_no_numbers_give_no_verdict(judge) -> None:
    with torch.no_grad():
        judge.model.lm_head.weight.fill_(torch.nan)
    assert judge.margins(some_comparisons(2)).isnan().all()


def test_special_tokens_and_rows_without_a_token_are_never_sampled(tokenizer) -> None:
    sampler = ThoughtSampler(tokenizer, [tokenizer.eos_token_id], 4, 0.5)
    logits = torch.zeros(len(tokenizer) + 3)
    scaled = sampler.scaled(logits)
    barred = {tokenizer.pad_token_id, tokenizer.unk_token_id, *range(len(tokenizer), len(tokenizer) + 3)}
    assert {i for i, each in enumerate(scaled.tolist()) if each == -math.inf} == barred
    assert sampler.scaled(logits + 1)[tokenizer.eos_token_id] == 2.0
