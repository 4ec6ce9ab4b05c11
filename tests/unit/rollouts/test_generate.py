import json

import pytest
import torch

from prl.config import LoRA, ModelSource, Sampling
from prl.models.loading import load_causal_lm
from prl.models.policy import response_logits, token_logprobs
from prl.rollouts.generate import decode, end_token_ids, generate, response_mask
from prl.types import PromptBatch, Rollout
from tests.helpers.records import ragged_mask
from tests.helpers.tiny import tiny_model, tiny_tokenizer, write_tiny_model

TOKENIZER = tiny_tokenizer()
PAD, EOS = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id


def prompts(texts: list[str]) -> PromptBatch:
    TOKENIZER.padding_side = "left"
    encoded = TOKENIZER(texts, return_tensors="pt", padding=True)
    turns = [[{"role": "user", "content": text}] for text in texts]
    return PromptBatch(encoded["input_ids"], encoded["attention_mask"].bool(), turns, [("a",)] * len(texts))


def sample(model, batch: PromptBatch, **settings) -> Rollout:
    return generate(model, TOKENIZER, batch, Sampling(**settings), end_ids=[EOS])


def test_sampling_is_in_eval_mode_and_leaves_the_mode_as_it_was() -> None:
    model, modes = tiny_model().train(), []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    sample(model, prompts(["ab"]), max_new_tokens=3)
    assert modes
    assert not any(modes)
    assert model.training


def test_response_mask_includes_the_first_end_token() -> None:
    ids = torch.tensor([[5, 1, 6, 1], [5, 6, 7, 8], [1, 1, 1, 1], [5, 6, 7, 2]])
    mask, finished = response_mask(ids, [1, 2])
    assert torch.equal(mask, ragged_mask([2, 4, 1, 4]))
    assert finished.tolist() == [True, False, True, True]


def test_response_mask_without_tokens() -> None:
    mask, finished = response_mask(torch.zeros(2, 0, dtype=torch.long), [1])
    assert mask.shape == (2, 0)
    assert finished.tolist() == [False, False]


def decoded(ids: list[list[int]]) -> list[str]:
    padded = torch.tensor([row + [PAD] * (max(map(len, ids)) - len(row)) for row in ids])
    mask, finished = response_mask(padded, [EOS])
    mask &= ragged_mask(list(map(len, ids)), padded.shape[1])
    return decode(TOKENIZER, padded, mask, finished)


def test_decode_leaves_out_padding_and_the_end() -> None:
    assert decoded([TOKENIZER.encode("ab") + [EOS], TOKENIZER.encode("cdef"), [EOS]]) == ["ab", "cdef", ""]


def test_decode_gives_the_sampled_text_and_nothing_else(monkeypatch) -> None:
    """Some tokenizers are told to clean text up, which is for people to read and none that was sampled."""
    monkeypatch.setattr(TOKENIZER, "clean_up_tokenization_spaces", True)
    text = " a != b , it 's  f(x) . I do n't "
    assert TOKENIZER.decode(TOKENIZER.encode(text)) != text
    assert decoded([[*TOKENIZER.encode(text), EOS]]) == [text]


def test_special_tokens_that_the_policy_writes_are_seen() -> None:
    """What was left out of the text no judge could hold against the policy."""
    assert decoded([[*TOKENIZER.encode("a"), PAD, TOKENIZER.unk_token_id, EOS]]) == ["a<pad><unk>"]


def test_decode_shows_only_what_the_mask_counts() -> None:
    ids = torch.tensor([TOKENIZER.encode("abcd")])
    assert decode(TOKENIZER, ids, ragged_mask([2], 4), torch.tensor([False])) == ["ab"]


def test_generate_fills_every_field() -> None:
    batch = prompts(["a", "bcd", "ef"])
    rollout = sample(tiny_model(), batch, max_new_tokens=7)
    assert torch.equal(rollout.prompt_ids, batch.prompt_ids)
    assert torch.equal(rollout.prompt_mask, batch.prompt_mask)
    assert rollout.response_ids.shape[0] == 3
    assert rollout.response_ids.shape[1] <= 7
    assert (rollout.response_ids[~rollout.response_mask] == PAD).all()
    mask, finished = response_mask(rollout.response_ids, [EOS])
    assert torch.equal(rollout.finished, finished)
    assert torch.equal(rollout.response_mask, mask)


def always(token: int):
    """Build a model whose next token never changes."""
    model = tiny_model()
    model.lm_head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    torch.nn.init.zeros_(model.lm_head.weight)
    torch.nn.init.zeros_(model.lm_head.bias)
    model.lm_head.bias.data[token] = 1e4
    return model


@pytest.mark.parametrize(("token", "width", "is_finished"), [(EOS, 1, True), (20, 5, False)])
def test_a_response_ends_at_the_end_token_or_at_the_limit(token, width, is_finished) -> None:
    rollout = sample(always(token), prompts(["a", "bc"]), max_new_tokens=5)
    assert rollout.response_ids.tolist() == [[token] * width] * 2
    assert rollout.response_mask.all()
    assert rollout.finished.tolist() == [is_finished] * 2


def test_every_end_token_of_the_folder_counts(tmp_path) -> None:
    folder = write_tiny_model(tmp_path)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [EOS, 9]}))
    model = load_causal_lm(ModelSource(path=str(folder)))
    assert end_token_ids(model, TOKENIZER) == [EOS, 9]
    model.generation_config.eos_token_id = 9
    assert end_token_ids(model, TOKENIZER) == sorted([EOS, 9])
    model.generation_config.eos_token_id = None
    assert end_token_ids(model, TOKENIZER) == [EOS]


HABITS = {
    "top_k": {"top_k": 1},
    "top_p": {"top_p": 0.05},
    "min_p": {"min_p": 0.9},
    "repetition_penalty": {"repetition_penalty": 50.0},
    "no_repeat": {"no_repeat_ngram_size": 1},
    "suppressed": {"suppress_tokens": list(range(3, 90))},
    "greedy": {"do_sample": False},
    "temperature": {"temperature": 0.01},
    "beams": {"num_beams": 2},
    "minimum": {"min_new_tokens": 1},
}


def with_habit(model, habit):
    (name, value), *_ = habit.items()
    setattr(model.generation_config, name, value)
    return model


def samples(model) -> list[tuple[int, ...]]:
    torch.manual_seed(3)
    rollout = sample(model, prompts(["aab"] * 40), max_new_tokens=3)
    return [tuple(row) for row in rollout.response_ids.tolist()]


@pytest.fixture(scope="module")
def unspoiled() -> list[tuple[int, ...]]:
    """Sample from a model without habits."""
    drawn = samples(tiny_model())
    assert len(set(drawn)) > 20  # it does sample
    return drawn


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS.keys())
def test_the_models_own_sampling_habits_are_ignored(habit, unspoiled) -> None:
    model = with_habit(tiny_model(), habit)
    own = model.generation_config
    assert samples(model) == unspoiled
    assert model.generation_config is own  # and the habits are there again afterwards


def test_habits_written_in_a_folder_are_ignored(tmp_path, unspoiled) -> None:
    folder = write_tiny_model(tmp_path)
    settings = json.loads((folder / "generation_config.json").read_text())
    habits = {"do_sample": True, "top_k": 1, "top_p": 0.1, "repetition_penalty": 50.0}
    (folder / "generation_config.json").write_text(json.dumps({**settings, **habits}))
    model = load_causal_lm(ModelSource(path=str(folder)))
    assert model.generation_config.top_k == 1
    assert samples(model) == unspoiled


def test_habits_are_ignored_under_adapters(tmp_path, unspoiled) -> None:
    folder = write_tiny_model(tmp_path)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 50.0}))
    model = load_causal_lm(ModelSource(path=str(folder), lora=LoRA(rank=2)))
    assert samples(model) == unspoiled  # fresh adapters change nothing


def test_fresh_adapters_sample_like_their_base(tiny_folder, unspoiled) -> None:
    assert samples(load_causal_lm(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2)))) == unspoiled


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_samples_follow_the_recorded_distribution(temperature) -> None:
    model = tiny_model()
    batch = prompts(["abc"])
    drawn = torch.cat(
        [
            sample(model, batch.repeat(3000), max_new_tokens=1, temperature=temperature).response_ids[:, 0]
            for _ in range(3)
        ]
    )
    logits = response_logits(model, *with_next(batch), 1)[0, 0]
    expected = (logits / temperature).softmax(-1) * len(drawn)
    observed = drawn.bincount(minlength=len(expected)).float()
    common = expected >= 5
    chi_square = ((observed - expected).square() / expected)[common].sum().item()
    degrees = int(common.sum()) - 1
    assert degrees > 20
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5  # five standard deviations of a chi-square
    assert (observed[~common].sum() - expected[~common].sum()).abs() < 5 * expected[~common].sum().sqrt() + 5


def with_next(batch: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
    ones = torch.ones(len(batch), 1, dtype=torch.long)
    return torch.cat([batch.prompt_ids, ones], 1), torch.cat([batch.prompt_mask, ones.bool()], 1)


def test_left_padding_does_not_change_what_is_sampled() -> None:
    # The same seed draws the same uniform numbers, so equal distributions give equal samples.
    model, alone = tiny_model(), prompts(["abc"])
    padded = PromptBatch(
        torch.nn.functional.pad(alone.prompt_ids, (4, 0), value=PAD),
        torch.nn.functional.pad(alone.prompt_mask, (4, 0), value=False),
        alone.prompts,
        alone.anchors,
    )
    torch.manual_seed(1)
    expected = sample(model, alone, max_new_tokens=12)
    torch.manual_seed(1)
    assert torch.equal(sample(model, padded, max_new_tokens=12).response_ids, expected.response_ids)


def test_scoring_again_gives_the_logprobs_that_generation_had() -> None:
    model = tiny_model()
    batch = prompts(["abc", "d", "efghi"])
    rollout = sample(model, batch, max_new_tokens=6)
    logits = response_logits(model, rollout.input_ids, rollout.attention_mask, rollout.response_ids.shape[1])
    found = token_logprobs(logits, rollout.response_ids, rollout.response_mask)
    for row in range(3):
        ids = batch.prompt_ids[row][batch.prompt_mask[row]].tolist()
        for place in range(int(rollout.response_mask[row].sum())):  # token by token, as generation went
            token = int(rollout.response_ids[row, place])
            step = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token]
            assert found[row, place].item() == pytest.approx(step.item(), abs=1e-5)
            ids.append(token)


@pytest.mark.parametrize("token", [EOS, 20])
def test_each_row_may_have_a_limit_of_its_own(token: int) -> None:
    batch, limits = prompts(["a", "bc", "d", "e"]), torch.tensor([0, 1, 3, 5])
    rollout = generate(always(token), TOKENIZER, batch, Sampling(max_new_tokens=9), end_ids=[EOS], limits=limits)
    lengths = [min(limit, 1) if token == EOS else limit for limit in limits.tolist()]
    assert torch.equal(rollout.response_mask, ragged_mask(lengths))
    assert rollout.finished.tolist() == [token == EOS and limit > 0 for limit in limits.tolist()]
    assert (rollout.response_ids[~rollout.response_mask] == PAD).all()
    assert rollout.texts == ["" if token == EOS else TOKENIZER.decode([token] * length) for length in lengths]


def test_an_end_token_beyond_the_limit_of_a_row_does_not_end_it() -> None:
    """Padding may be an end token, and stands behind rows that were cut."""
    batch, limits = prompts(["a", "bc"]), torch.tensor([2, 4])
    rollout = generate(always(20), TOKENIZER, batch, Sampling(), end_ids=[EOS, PAD], limits=limits)
    assert rollout.response_mask.sum(1).tolist() == [2, 4]
    assert rollout.finished.tolist() == [False, False]


def test_rows_end_at_their_limits_and_the_batch_with_the_last() -> None:
    model, steps = always(20), []
    model.register_forward_pre_hook(lambda *_: steps.append(1))
    limits = torch.tensor([2, 4])
    generate(model, TOKENIZER, prompts(["a", "bc"]), Sampling(max_new_tokens=50), end_ids=[EOS], limits=limits)
    assert len(steps) == 4
