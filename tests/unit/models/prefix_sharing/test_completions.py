"""Completions behind shared prompts: log-probabilities, states and gradients of trees are those of plain rows."""

import logging
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prl.config import LoRA
from prl.data.tokens import right_pad
from prl.models import logprobs as head
from prl.models.loading import add_lora
from prl.models.logprobs import Completions, completion_logprobs, read_completions
from prl.models.prefix_sharing.completions import read_shared_completions
from prl.models.prefix_sharing.packing import CostModel, pack, plan_pass, tree_size
from prl.models.prefix_sharing.tree_attention import ATTENTION_LENGTH, PrefixSharing, PrefixSharingError
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import tiny_model

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-eager": {"attn_implementation": "eager"},
    "llama-grouped": {"num_key_value_heads": 1},
    "gpt2": {"model_type": "gpt2"},  # learned positions
    "gpt_neox": {"model_type": "gpt_neox"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "gemma2": {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 2.0},  # whole logits, and a window
}
Batch = tuple[Tensor, Tensor, Tensor, Tensor]

ids = st.lists(st.integers(3, 6), max_size=5)
prompts = st.lists(st.integers(3, 6), min_size=1, max_size=12)
pairs = st.lists(st.tuples(prompts, st.lists(ids, min_size=1, max_size=4)), min_size=1, max_size=4)


def batch_of(rows: list[tuple[int, list[int], list[int]]]) -> Batch:
    """Build ids, mask, loss mask and pairs from the pair, prompt and response of each row."""
    together, mask = right_pad([[*prompt, *response] for _, prompt, response in rows], 0)
    starts = torch.tensor([len(prompt) for _, prompt, _ in rows])
    loss_mask = mask & (torch.arange(together.shape[1]) >= starts[:, None])
    return together, mask, loss_mask, torch.tensor([pair for pair, *_ in rows])


def some_rows() -> list[tuple[int, list[int], list[int]]]:
    """Give pairs, a list, empty and one-token responses, one prompt twice, and one that quotes; views in turn."""
    draw = random.Random(0)

    def text(size: int) -> list[int]:
        return [draw.randrange(5, 40) for _ in range(size)]

    long, short, other = text(30), text(1), text(9)
    quoting = [*long[:20], *text(6)]
    chosen = [(0, long, text(7)), (1, short, text(1)), (2, other, []), (3, other, text(3))]
    rejected = [(0, long, text(2)), (1, short, text(12)), (2, other, text(4)), (3, other, [])]
    return [*chosen, *rejected, (0, quoting, text(5)), (2, other, text(4)), (2, other, text(1)), (2, other, text(6))]


def counting(sharing: PrefixSharing) -> tuple[int, int]:
    return sharing.tokens.computed, sharing.tokens.plain


def assert_same(found: Completions, expected: Completions) -> None:
    assert torch.equal(found.mask, expected.mask)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)
    assert not found.logprobs[~found.mask].any()
    if expected.hidden is not None:
        assert_same_numbers(found.hidden, expected.hidden)
        assert not found.hidden[~found.mask].any()


@pytest.fixture(params=ARCHITECTURES, scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(4, **ARCHITECTURES[request.param])


def gradients(model: Any, read: Completions) -> dict[str, Tensor]:
    """Gradients of a loss that weighs every token otherwise, and reads the hidden states."""
    model.zero_grad()
    weights = torch.arange(read.mask.numel()).view(read.mask.shape).cos() / read.mask.sum()
    ((weights * read.logprobs).sum() + 0.1 * (weights[..., None] * read.hidden).sum()).backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def assert_same_gradients(model: Any, batch: Batch) -> None:
    sharing = PrefixSharing("on", "packed")
    plain = read_completions(model, *batch[:3], with_hidden=True)
    expected = gradients(model, plain)
    packed = read_shared_completions(model, sharing, *batch, with_hidden=True)
    assert_same(packed, plain)
    computed, of_rows = counting(sharing)
    assert computed < 0.6 * of_rows
    found = gradients(model, packed)
    assert found.keys() == expected.keys()
    assert max(float(each.abs().max()) for each in expected.values()) > 0.05
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_numbers_and_gradients_are_those_of_plain_rows(model: Any) -> None:
    assert_same_gradients(model, batch_of(some_rows()))


@pytest.mark.parametrize("slices", [1, 5])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_so_they_are_in_slices_recomputed_and_with_adapters(
    adapted: bool, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model(4).train(), batch_of(some_rows())
    if adapted:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = add_lora(model, LoRA(rank=2))
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    vocabulary = model.get_output_embeddings().out_features
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", vocabulary * -(-int(batch[2].sum()) // slices))
    assert_same_gradients(model, batch)


@settings(max_examples=25, deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_any_prompts_and_responses_read_alike(pairs: Any, draw: random.Random) -> None:
    rows = [(number, prompt, each) for number, (prompt, some) in enumerate(pairs) for each in some]
    rows.append((0, [3], [4]))  # a row that the loss is on
    batch = batch_of(draw.sample(rows, len(rows)))
    model = tiny_model(4)
    with torch.no_grad():
        found = read_shared_completions(model, PrefixSharing("on"), *batch, with_hidden=True)
        assert_same(found, read_completions(model, *batch[:3], with_hidden=True))


@torch.no_grad()
def test_the_head_reads_completions_alone_and_padding_is_of_no_matter() -> None:
    model, batch = tiny_model(4), batch_of(some_rows())
    sharing = PrefixSharing("on")
    read_shared_completions(model, sharing, *batch)  # tries the model
    seen: list[int] = []
    passes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda *args: seen.append(args[2].shape[:-1].numel()))
    model.model.register_forward_hook(lambda *args: passes.append(tuple(args[2].last_hidden_state.shape[:2])))
    found = read_shared_completions(model, sharing, *batch)
    assert sum(seen) == 1 + int(batch[2].sum())  # and the one state that the model itself shows it
    assert len(passes) == 1
    assert passes[0][0] * passes[0][1] < batch[0].numel()
    wider = [torch.nn.functional.pad(each, (0, 7)) for each in batch[:3]]
    assert_same(read_shared_completions(model, sharing, *wider, batch[3]), found)


@torch.no_grad()
def test_rows_without_a_loss_are_left_alone() -> None:
    model, batch = tiny_model(4), batch_of([(0, [3, 4, 5, 6], []), (0, [3, 4, 5, 6], []), (0, [3, 4, 5], [])])
    found = read_shared_completions(model, PrefixSharing("on"), *batch)
    assert found.logprobs.shape == found.mask.shape == (3, 0)


# When


@torch.no_grad()
def test_the_cost_of_padded_rows_decides() -> None:
    """Much that is shared is read once, little is not; rows of very different lengths fill each other up."""
    model = tiny_model(4)
    length = round(ATTENTION_LENGTH * model.config.hidden_size)
    for share, is_shared in ((0.1, False), (0.8, True)):
        prompt = list(range(5, 5 + round(length * share)))
        response = [7] * (length - len(prompt))
        sharing = PrefixSharing("auto")
        batch = batch_of([(0, prompt, response), (0, prompt, [8, *response[1:]])])
        read_shared_completions(model, sharing, *batch)
        computed, plain = counting(sharing)
        assert (computed < plain) == is_shared
        longest = sharing.longest_tree(model, 2, length)
        assert (2 * length - len(prompt) <= longest) == is_shared
        assert longest < 2 * length - 1 == PrefixSharing("on").longest_tree(model, 2, length)
        assert PrefixSharing("off").longest_tree(model, 2, length) == 0
    sharing = PrefixSharing("auto")
    batch = batch_of([(0, [9], [7] * 30), (0, [8], [7] * 2), (1, [9], [7] * 3), (1, [8], [7] * 20)])
    assert_same(read_shared_completions(model, sharing, *batch), read_completions(model, *batch[:3]))
    assert sharing.tokens.positions == 2 * 31
    assert sharing.tokens.computed == sharing.tokens.plain == 59


many_pairs = st.lists(
    st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=9), min_size=1, max_size=3), min_size=1, max_size=5
)


@settings(max_examples=60)
@given(many_pairs, st.sampled_from([4.0, 30.0, 1e9]), st.integers(9, 40))
def test_a_plan_has_every_reading_once_and_keeps_to_the_widest_row(pairs: Any, attention: float, widest: int) -> None:
    readings = [reading for pair in pairs for reading in pair]
    numbers = iter(range(len(readings)))
    groups = [[next(numbers) for _ in pair] for pair in pairs]
    cost = CostModel(attention, 0.05)
    rows = plan_pass(groups, readings, widest, cost)
    assert sorted(i for row in rows for i in row) == list(range(len(readings)))
    sizes = [tree_size([readings[i] for i in row]) for row in rows]
    assert max(sizes) <= widest
    assert pack(rows, readings, 0).input_ids.shape == (len(rows), max(sizes))
    longest = max(map(len, readings))
    assert len(rows) * cost.tree(max(sizes)) <= len(readings) * cost.tree(longest)


def test_shared_parts_of_other_pairs_are_computed_for_each() -> None:
    readings = [[3, 4, 5, 6], [3, 4, 5, 7], [3, 4, 5, 8], [3, 4, 5, 9]]
    rows = plan_pass([[0, 2], [1, 3]], readings, 100, CostModel())
    assert sorted(map(sorted, rows)) == [[0, 2], [1, 3]]


# Models that cannot


class Deaf(torch.nn.Module):
    """A model that ignores the mask of a tree."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_model(4)
        self.config, self.get_input_embeddings = self.inner.config, self.inner.get_input_embeddings
        self.get_output_embeddings = self.inner.get_output_embeddings

    def forward(self, attention_mask: Tensor, **inputs: Any) -> Any:
        return self.inner(
            attention_mask=attention_mask[:, 0, -1] if attention_mask.dim() == 4 else attention_mask, **inputs
        )


@torch.no_grad()
def test_a_model_that_cannot_is_read_plainly_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    batch, sharing = batch_of(some_rows()), PrefixSharing("auto", "packed")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = read_shared_completions(Deaf(), sharing, *batch)
    assert torch.equal(found.logprobs, completion_logprobs(tiny_model(4), *batch[:3])[0])
    (line,) = [each.message for each in caplog.records if "set packed: off" in each.message]
    assert "Deaf ignores" in line
    with pytest.raises(PrefixSharingError, match="packed is on, but Deaf ignores .*Set packed: auto, which then reads"):
        read_shared_completions(Deaf(), PrefixSharing("on", "packed"), *batch)
    other = tiny_model(4)
    other.config._attn_implementation = "flash_attention_2"
    with pytest.raises(PrefixSharingError, match="packed is on, but attn_implementation flash_attention_2 takes no"):
        read_shared_completions(other, PrefixSharing("on", "packed"), *batch)


@torch.no_grad()
def test_a_window_that_a_row_does_not_fit_into_is_read_plainly() -> None:
    batch = batch_of(some_rows())
    longest = int(batch[1].sum(1).max())
    for window, is_shared in ((longest - 1, False), (4 * longest, True)):
        model, sharing = tiny_model(4, model_type="mistral", sliding_window=window), PrefixSharing("on")
        found = read_shared_completions(model, sharing, *batch)
        assert_same(found, read_completions(model, *batch[:3]))
        computed, plain = counting(sharing)
        assert (computed < plain) == is_shared
