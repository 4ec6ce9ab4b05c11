"""Reading shared beginnings once changes no number: margins and gradients equal those of plain forward passes."""

import logging
import random
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from prl.config import LoRA
from prl.judge import ComparisonEncoder, GenerativeJudge, JudgeTemplate
from prl.judge.batched import batched_margins
from prl.judge.files import save_judge
from prl.models.loading import add_lora
from prl.models.prefix_sharing.packing import CostModel, pack, plan_rows, shared_length, tree_size
from prl.models.prefix_sharing.tree_attention import (
    PrefixSharing,
    PrefixSharingError,
    _why_unable,
    attention_window,
    packed_logits,
)
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import tiny_model, tiny_tokenizer

TEMPLATE = JudgeTemplate("Which?\n{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?")
DOUBLE = 1e-6
"""What models in float64 may differ by: softmax and rotations are float32 in them too."""
ATTENTION = ("sdpa", "eager")
ARCHITECTURES = {
    "llama": {},
    "gpt2": {"model_type": "gpt2"},  # learned positions
    "gpt_neox": {"model_type": "gpt_neox"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
}

readings_of_one_tree = st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=9), min_size=1, max_size=7)


@pytest.fixture(scope="module")
def encoder() -> ComparisonEncoder:
    return ComparisonEncoder(tiny_tokenizer(), TEMPLATE, max_length=160)


@pytest.fixture(scope="module", params=[(name, impl) for name in ARCHITECTURES for impl in ATTENTION], ids="-".join)
def model(request):
    name, attention = request.param
    return tiny_model(**{**ARCHITECTURES[name], "attn_implementation": attention}).double()


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def some_texts(number: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdef", k=draw.randint(shortest, longest))) for _ in range(number)]


def comparisons(num_prompts: int, num_samples: int) -> list:
    """Every sample of a prompt beside its anchor, in both orders, prompts in turn."""
    listed = []
    for sample in range(num_samples):
        for prompt in range(num_prompts):
            question, anchor = some_texts(2, 5, 30, seed=prompt)
            (response,) = some_texts(1, 1, 30, seed=1000 + 10 * sample + prompt)
            listed += [(turn(question), anchor, response), (turn(question), response, anchor)]
    return listed


def readings(encoder: ComparisonEncoder, num_prompts: int = 3, num_samples: int = 3) -> list[list[int]]:
    return [encoder.compare(*each)[0] for each in comparisons(num_prompts, num_samples)]


def alone(model, rows: list[list[int]]) -> torch.Tensor:
    """Each reading by itself, through transformers only."""
    return torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])


# The layout


@settings(max_examples=40)
@given(readings_of_one_tree)
def test_every_reading_is_what_its_last_token_sees(tree) -> None:
    packed = pack([list(range(len(tree)))], tree, pad_id=0)
    visible = packed.visible()[0]
    start = packed.input_ids.shape[1] - packed.num_columns
    for reading, column in zip(tree, packed.column.tolist(), strict=True):
        seen = visible[start + column]
        path = packed.depth[0][seen].sort()
        assert path.values.tolist() == list(range(len(reading)))
        assert packed.input_ids[0][seen][path.indices].tolist() == reading
        assert seen.nonzero().max() == start + column  # nothing behind it


@settings(max_examples=40)
@given(readings_of_one_tree)
def test_a_tree_is_as_long_as_it_has_different_beginnings(tree) -> None:
    tree = sorted(tree)
    packed = pack([list(range(len(tree)))], tree, pad_id=0)
    inner = {tuple(reading[:n]) for reading in tree for n in range(1, len(reading))}
    assert packed.input_ids.shape == (1, len(inner) + len(tree))  # and a last token of its own for every reading
    assert packed.num_tokens == tree_size(tree) == len(inner) + len(tree)
    assert packed.num_plain_tokens == sum(map(len, tree))


def test_padding_is_seen_by_nobody_but_padding() -> None:
    packed = pack([[0, 1], [2]], [[3, 4, 5], [3, 4, 6], [7, 8]], pad_id=0)
    assert packed.input_ids.tolist() == [[3, 4, 5, 6], [0, 0, 7, 8]]
    assert packed.visible()[1].tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, True, True],
    ]
    assert (packed.row.tolist(), packed.column.tolist()) == ([0, 0, 1], [0, 1, 1])


def every_cut(order: list[int]):
    """All ways to cut a sequence into rows."""
    for cuts in range(1 << (len(order) - 1)):
        rows = [[order[0]]]
        for i, number in enumerate(order[1:]):
            if cuts >> i & 1:
                rows.append([])
            rows[-1].append(number)
        yield rows


@settings(max_examples=40)
@given(readings_of_one_tree, st.sampled_from([4.0, 12.0, 100.0]), st.sampled_from([0.0, 0.1]))
def test_the_plan_is_the_least_work(tree, attention_length, overhead) -> None:
    cost = CostModel(attention_length, overhead)

    def total(rows) -> float:
        sizes = [tree_size([tree[i] for i in row]) for row in rows]
        return sum((cost.tree if len(row) > 1 else cost.row)(size) for row, size in zip(rows, sizes, strict=True))

    found = plan_rows(tree, 10**6, cost)
    assert sorted(i for row in found for i in row) == list(range(len(tree)))
    order = sorted(range(len(tree)), key=lambda i: tree[i])
    assert total(found) == pytest.approx(min(map(total, every_cut(order))))


def test_trees_keep_to_the_longest_row(encoder) -> None:
    rows = readings(encoder)
    longest = 2 * max(map(len, rows))
    sizes = [tree_size([rows[i] for i in row]) for row in plan_rows(rows, longest, CostModel())]
    assert len(sizes) < len(rows)
    assert max(sizes) <= longest
    assert len(plan_rows(rows, 10**6, CostModel())) < len(sizes)
    assert len(plan_rows(rows, 1, CostModel())) == len(rows)


def test_shared_beginnings_leave_a_last_token() -> None:
    assert shared_length([1, 2, 3], [1, 2, 4]) == 2
    assert shared_length([1, 2, 3], [1, 2, 3]) == 2
    assert shared_length([1, 2], [1, 2, 3]) == 1
    assert shared_length([1], [2]) == 0


# The numbers


@torch.no_grad()
def test_branches_read_what_plain_rows_read(model, encoder) -> None:
    rows = readings(encoder)
    expected = alone(model, rows)
    margins = expected[:, encoder.verdict_ids[0]] - expected[:, encoder.verdict_ids[1]]
    assert margins.std() > 0.1  # otherwise equality would say nothing
    for max_tokens in (1, 200, 100_000):
        prefix_sharing = PrefixSharing("on")
        assert_same_numbers(batched_margins(model, rows, encoder, max_tokens, prefix_sharing), margins, DOUBLE)
        assert prefix_sharing.tokens.plain == sum(map(len, rows))
        assert (prefix_sharing.tokens.computed < prefix_sharing.tokens.plain) == (max_tokens > 1)


@settings(max_examples=25, deadline=None)
@given(readings_of_one_tree, st.randoms(use_true_random=False))
def test_any_tree_reads_what_plain_rows_read(tree, draw) -> None:
    model = tiny_model().double()
    rows = [[]]
    for number in draw.sample(range(len(tree)), len(tree)):
        if rows[-1] and draw.random() < 0.4:
            rows.append([])
        rows[-1].append(number)
    with torch.no_grad():
        assert_same_numbers(packed_logits(model, pack(rows, tree, pad_id=1)), alone(model, tree), DOUBLE)


@torch.no_grad()
def test_the_order_of_branches_changes_nothing(encoder) -> None:
    model, rows = tiny_model().double(), readings(encoder, 1, 2)
    expected = packed_logits(model, pack([[0, 1, 2, 3]], rows, 1))
    for order in permutations(range(4)):
        assert_same_numbers(packed_logits(model, pack([list(order)], rows, 1)), expected, DOUBLE)


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_gradients_equal_those_of_plain_rows(encoder, adapted, checkpointing) -> None:
    rows = readings(encoder, 3, 1)
    weights = torch.randn(len(rows), generator=torch.Generator().manual_seed(0))
    gradients = []
    for fused in (False, True):
        model = tiny_model().train()
        if adapted:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = add_lora(model, LoRA(rank=2))
                torch.nn.init.normal_(next(p for n, p in model.named_parameters() if "lora_B" in n))
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
        logits = packed_logits(model, pack([[0, 1], [2, 3], [4, 5]], rows, 1)) if fused else alone(model, rows)
        (weights @ logits.log_softmax(-1)[:, encoder.verdict_ids[0]]).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert max(float(g.abs().max()) for g in gradients[0].values()) > 0.1
    for name, gradient in gradients[0].items():
        assert_same_numbers(gradients[1][name], gradient, msg=name)


# The judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("judge")
    save_judge(folder, tiny_model(1, hidden_size=64), encoder.tokenizer, encoder)
    return str(folder)


def test_a_judge_is_the_same_in_every_mode(folder) -> None:
    asked = comparisons(4, 3)
    prompts, a, b = (list(column) for column in zip(*asked, strict=True))
    verdicts, tokens = {}, {}
    for mode in ("auto", "on", "off"):
        judge = GenerativeJudge(folder, fused=mode)
        judge.load()
        judge.model.double()
        verdicts[mode] = judge.compare(prompts, a, b)
        tokens[mode] = judge.tokens
    for mode in ("auto", "on"):
        assert_same_numbers(verdicts[mode].margin_ab, verdicts["off"].margin_ab, DOUBLE)
        assert_same_numbers(verdicts[mode].margin_ba, verdicts["off"].margin_ba, DOUBLE)
    assert tokens["on"].computed < tokens["auto"].computed < tokens["off"].computed
    assert tokens["off"].computed == tokens["off"].plain == tokens["on"].plain == tokens["auto"].plain
    assert tokens["on"].cached_token_fraction == pytest.approx(1 - tokens["on"].computed / tokens["on"].plain)
    assert tokens["off"].cached_token_fraction == 0
    assert all(each.computed <= each.positions for each in tokens.values())


def test_samples_share_their_anchor_with_the_prompt(folder, encoder) -> None:
    judge = GenerativeJudge(folder, fused="on")
    judge.load()
    asked = [each for each in comparisons(1, 4) if each[1] == comparisons(1, 1)[0][1]]  # anchor first
    judge.margins(asked)
    (question, anchor, _), sizes = asked[0], [len(encoder.compare(*each)[0]) for each in asked]
    before = len(encoder.compare(question, anchor, "")[0]) - len(encoder.compiled.pieces[-1])
    assert judge.tokens.plain == sum(sizes)
    assert judge.tokens.computed <= sum(sizes) - 3 * before


def test_little_that_is_shared_is_not_worth_a_tree(folder) -> None:
    judge = GenerativeJudge(folder)
    judge.load()
    judge.margins([(turn(text), text, text) for text in some_texts(6, 25, 30)])
    assert judge.tokens.computed == judge.tokens.plain


# Models that cannot


class Deaf(torch.nn.Module):
    """A model that takes the block mask or the positions and reads on as it always does."""

    def __init__(self, deaf_to: str) -> None:
        super().__init__()
        self.inner, self.deaf_to = tiny_model(), deaf_to
        self.config, self.get_input_embeddings = self.inner.config, self.inner.get_input_embeddings

    def forward(self, attention_mask, position_ids, **inputs):
        if attention_mask.dim() == 4:
            if self.deaf_to == "refuses":
                raise TypeError("a mask of two axes, please")
            if self.deaf_to == "mask":
                attention_mask = attention_mask[:, 0].any(1)
            if self.deaf_to == "positions":
                position_ids = torch.arange(position_ids.shape[1]).expand_as(position_ids)
        return self.inner(attention_mask=attention_mask, position_ids=position_ids, **inputs)


@torch.no_grad()
@pytest.mark.parametrize("deaf_to", ["mask", "positions", "refuses"])
def test_a_model_that_cannot_is_read_plainly(encoder, caplog, deaf_to) -> None:
    model, rows = Deaf(deaf_to), readings(encoder)
    prefix_sharing = PrefixSharing("auto")
    prefix_sharing._cost_model = lambda _: CostModel()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = batched_margins(model, rows, encoder, 1000, prefix_sharing)
    assert_same_numbers(found, batched_margins(model.inner, rows, encoder, 1000))
    assert prefix_sharing.tokens.computed == prefix_sharing.tokens.plain
    (line,) = [record.message for record in caplog.records if "read whole" in record.message]  # once
    assert "Deaf" in line
    with pytest.raises(PrefixSharingError, match="fused is on, but Deaf"):
        batched_margins(model, rows, encoder, 1000, PrefixSharing("on"))


@torch.no_grad()
def test_rounding_in_half_precision_is_no_fault_of_the_model() -> None:
    model = tiny_model(1).to(torch.bfloat16)
    for length in range(10, 40, 2):  # some differ where padding happens to change nothing
        generator = torch.Generator().manual_seed(length)
        assert _why_unable(model, torch.randint(5, 60, (length,), generator=generator).tolist()) is None


def test_a_windowed_model_shares_what_fits_into_its_window(encoder) -> None:
    rows = readings(encoder)
    longest = max(map(len, rows))
    for window in (longest // 2, 2 * longest):
        model = tiny_model(model_type="mistral", sliding_window=window).double()
        prefix_sharing = PrefixSharing("on")
        assert attention_window(model) == window
        expected = alone(model, rows)
        margins = expected[:, encoder.verdict_ids[0]] - expected[:, encoder.verdict_ids[1]]
        assert_same_numbers(batched_margins(model, rows, encoder, 10_000, prefix_sharing), margins, DOUBLE)
        assert (prefix_sharing.tokens.computed < prefix_sharing.tokens.plain) == (window > longest)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "gemma2"])
def test_a_reading_longer_than_the_window_keeps_no_other_from_sharing(family, encoder, caplog) -> None:
    rows = readings(encoder)
    long = rows[0] + rows[0]  # beside which the others fit into the window
    window = len(long) - 1
    fields = {} if family == "mistral" else {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    model = tiny_model(model_type=family, sliding_window=window, **fields)
    prefix_sharing = PrefixSharing("on")
    expected = alone(model, [*rows, long])
    margins = expected[:, encoder.verdict_ids[0]] - expected[:, encoder.verdict_ids[1]]
    found = batched_margins(model, [*rows, long], encoder, 10_000, prefix_sharing)
    assert_same_numbers(found, margins)
    assert prefix_sharing.tokens.computed < prefix_sharing.tokens.plain
    assert caplog.text == ""


WINDOWS = {
    "gemma3": ("gemma3_text", {"sliding_window": 512}, 512),  # every sixth layer sees everything
    "gemma3 without": ("gemma3_text", {"sliding_window": 512, "layer_types": ["full_attention"] * 2}, None),
    "gemma2": ("gemma2", {"sliding_window": 64}, 64),
    "mistral": ("mistral", {"sliding_window": 64}, 64),
    "mistral without": ("mistral", {"sliding_window": None}, None),
    "qwen2 without": ("qwen2", {"sliding_window": 64, "use_sliding_window": False}, None),
    "qwen2": ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, 64),
    "qwen2 above its layers": (
        "qwen2",
        {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2},
        None,
    ),
    "qwen2_moe": ("qwen2_moe", {"use_sliding_window": False}, None),
    "gpt_neo": ("gpt_neo", {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 32}, 32),
    "gpt_neo global": ("gpt_neo", {"num_layers": 2, "attention_types": [[["global"], 2]], "window_size": 32}, None),
    "llama4": ("llama4_text", {"attention_chunk_size": 128}, 128),
    "llama": ("llama", {}, None),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_that_layers_look_through(name) -> None:
    family, fields, window = WINDOWS[name]
    config = AutoConfig.for_model(**{"model_type": family, "num_hidden_layers": 2, **fields})
    assert attention_window(SimpleNamespace(config=config)) == window


def test_other_attention_is_refused_before_it_runs(encoder) -> None:
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(PrefixSharingError, match="flash_attention_2 takes no mask of our own"):
        PrefixSharing("on").rows(model, readings(encoder), 1000)


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="fused is 'yes'; expected auto, on or off"):
        PrefixSharing("yes")
