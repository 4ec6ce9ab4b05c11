"""DR-PO's rollouts: where they begin, whose tokens are whose, and what stays as it was."""

from typing import Any

import pytest
import torch

from prl.models.actor_critic import evaluate_frozen
from prl.rollouts import PrefixReset
from prl.types import PromptBatch, Rollout
from tests.helpers.policy_handle import Handle, prompt_batch
from tests.helpers.records import answered
from tests.helpers.tiny import tiny_model, tiny_tokenizer

PROMPTS, ANCHORS = ["reverse ab", "upper c", "sort dcab"], [("abcdefgh", "x"), ("yz",), ("kmno",)]
TOKENIZER = tiny_tokenizer()


def batch(per_prompt: int = 1) -> PromptBatch:
    return prompt_batch(PROMPTS, ANCHORS).repeat(per_prompt)


def drawn(sampler: PrefixReset, batch: PromptBatch, seed: int = 0, **sampling: Any) -> Rollout:
    torch.manual_seed(seed)
    return sampler.sample(batch, Handle(**{"max_new_tokens": 6, **sampling}))


def prefixes(rollout: Rollout) -> list[int]:
    """Count the tokens in front of the policy's, in each row."""
    return [int(each) for each in (rollout.read_mask & ~rollout.response_mask).sum(1)]


def same(one: Rollout, other: Rollout) -> None:
    assert torch.equal(one.response_ids, other.response_ids)
    assert torch.equal(one.response_mask, other.response_mask)
    assert torch.equal(one.read_mask, other.read_mask)
    assert torch.equal(one.finished, other.finished)
    assert one.texts == other.texts


def test_without_prefixes_it_is_plain_sampling() -> None:
    """To the bit, and the next draw is the same too."""
    found, after = drawn(PrefixReset(beta=0.0), batch()), torch.rand(())
    torch.manual_seed(0)
    same(found, Handle(max_new_tokens=6).generate(batch()))
    assert torch.equal(after, torch.rand(()))
    assert found.context_mask is None


@pytest.mark.parametrize(("per_prompt", "limit"), [(1, 1), (1, 9), (2, 5), (3, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_a_response_begins_with_a_part_of_the_reference(seed: int, per_prompt: int, limit: int) -> None:
    rollout = drawn(PrefixReset(), batch(per_prompt), seed, max_new_tokens=limit)
    lengths = prefixes(rollout)
    for row, length in enumerate(lengths):
        reference = ANCHORS[row // per_prompt][0]
        assert length <= min(len(reference), limit - 1)
        assert rollout.texts[row].startswith(reference[:length])
        mask = rollout.response_mask[row].tolist()
        total = int(rollout.read_mask[row].sum())
        assert mask == [length <= place < total for place in range(len(mask))]
        assert length < total <= limit
        ids = rollout.response_ids[row, :total].tolist()
        assert (ids[-1] in Handle().end_ids) == bool(rollout.finished[row])
        assert rollout.texts[row] == TOKENIZER.decode(ids[: total - bool(rollout.finished[row])])
        assert rollout.finished[row] or total == limit
        assert not rollout.response_ids[row, total:].any()
    assert rollout.read_mask.any(0).all()
    assert lengths == [lengths[row - row % per_prompt] for row in range(len(lengths))]  # of one prompt, one beginning
    assert rollout.batch.group.tolist() == batch(per_prompt).group.tolist()
    assert torch.equal(rollout.prompt_ids, batch(per_prompt).prompt_ids)


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_how_often_and_how_long(beta: float) -> None:
    many, handle = prompt_batch(["p"] * 3000, [("abc",)] * 3000), Handle(max_new_tokens=6)
    handle.generate = lambda batch, limits: answered(batch, [""] * len(batch))  # type: ignore[method-assign]
    counts = torch.bincount(torch.tensor(prefixes(PrefixReset(beta).sample(many, handle))), minlength=4) / 3000
    expected = torch.full((4,), beta / 4) + torch.tensor([1 - beta, 0, 0, 0])
    assert (counts - expected).abs().max() < 5 * (0.25 / 3000) ** 0.5  # five standard deviations of a share


def test_the_same_random_state_gives_the_same_rollout() -> None:
    same(drawn(PrefixReset(0.5), batch(2), 3), drawn(PrefixReset(0.5), batch(2), 3))
    lengths = {tuple(prefixes(drawn(PrefixReset(0.5), batch(2), seed))) for seed in range(5)}
    assert len(lengths) > 1


def test_what_the_policy_says_behind_a_prefix_is_what_it_says_to_the_longer_prompt() -> None:
    """Probabilities of the drawn tokens, computed afresh over prompt and prefix as one prompt."""
    model, rollout = tiny_model(), drawn(PrefixReset(), batch(), 1)
    assert sum(prefixes(rollout))
    logprobs = evaluate_frozen(model, rollout, temperature=1.0)
    for row, length in enumerate(prefixes(rollout)):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        total = int(rollout.read_mask[row].sum())
        ids = prompt + rollout.response_ids[row, :total].tolist()
        steps = model(torch.tensor([ids])).logits[0].log_softmax(-1).detach()
        for place in range(length, total):
            at = len(prompt) + place
            assert float(logprobs[row, place]) == pytest.approx(float(steps[at - 1, ids[at]]), abs=1e-5)


def test_a_model_without_further_positions_reads_every_row() -> None:
    """A row with a long prefix ends first, and the others go on: it must not be read beyond the model's positions."""
    width = int(batch().prompt_mask.sum(1).max())
    sizes = {"n_positions": width + 8, "n_embd": 16, "n_layer": 1, "n_head": 2, "model_type": "gpt2"}
    model = tiny_model(**sizes, max_position_embeddings=width + 8)
    model.lm_head.weight.data[1] = 0  # no end, so that all rows go on to their limits
    torch.nn.init.normal_(model.lm_head.weight.data[3:])
    for seed in range(20):
        torch.manual_seed(seed)
        rollout = PrefixReset().sample(batch(), Handle(model, max_new_tokens=8))
        assert rollout.read_mask.sum(1).max() <= 8
        assert evaluate_frozen(model, rollout, temperature=1.0).isfinite().all()


def test_validations_begin_at_the_prompt() -> None:
    torch.manual_seed(0)
    found = PrefixReset().answer(batch(), Handle(max_new_tokens=6))
    torch.manual_seed(0)
    same(found, Handle(max_new_tokens=6).generate(batch()))


def test_prompts_are_read_as_they_are_without_a_chat_template() -> None:
    handle = Handle(max_new_tokens=9)
    handle.tokenizer.chat_template = None
    torch.manual_seed(2)
    rollout = PrefixReset().sample(batch(), handle)
    assert sum(prefixes(rollout))
    for text, length, (reference, *_) in zip(rollout.texts, prefixes(rollout), ANCHORS, strict=True):
        assert text.startswith(reference[:length])


def test_a_mark_in_the_reference_is_written_as_characters() -> None:
    """Or a reference that quotes an end token would end the response."""
    rollout = drawn(PrefixReset(), prompt_batch(["p"] * 60, [("<eos>",)] * 60), max_new_tokens=9)
    begun = [text for text, length in zip(rollout.texts, prefixes(rollout), strict=True) if length == 5]
    assert begun
    assert all(text.startswith("<eos>") for text in begun)


def test_bad_input_is_named() -> None:
    for beta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="PrefixReset.beta is .*expected a probability"):
            PrefixReset(beta)
    with pytest.raises(ValueError, match="begins 'upper c' has none; add a column 'anchor'"):
        drawn(PrefixReset(), prompt_batch(PROMPTS, [("a",), (), ("b",)]))
