"""What work needs, counted by PyTorch's own counter, by prefixes themselves, and at the limits of a machine."""

import random

import pytest
import torch
from needed_work import Rates, Shape, Tokens, distinct_tokens, measure_rates, plain_tokens, sampling_seconds
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.tiny import tiny_model

DRAW = random.Random(0)
ROWS = [[0, 1, *(DRAW.randrange(3) for _ in range(DRAW.randrange(8)))] for _ in range(40)]


def test_distinct_tokens_are_distinct_prefixes() -> None:
    prefixes = {tuple(row[: end + 1]) for row in ROWS for end in range(len(row))}
    assert distinct_tokens(ROWS) == Tokens(len(prefixes), sum(map(len, prefixes)))


def test_rows_that_share_nothing_need_all_tokens() -> None:
    rows = [[first, *row] for first, row in enumerate(ROWS)]
    assert distinct_tokens(rows) == plain_tokens(rows)
    assert plain_tokens(ROWS).count == sum(map(len, ROWS))


@pytest.mark.parametrize("heads", [2, 1])
def test_operations_are_those_that_pytorch_counts(heads) -> None:
    """Its counter knows no causal attention: every token looks at all."""
    model = tiny_model(num_key_value_heads=heads, attn_implementation="eager")
    ids, shape = torch.ones(3, 11, dtype=torch.long), Shape.of(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    assert shape.forward(Tokens(33, 3 * 11 * 11)) + shape.head(33) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert shape.parameters == sum(each.numel() for each in model.parameters())


def test_a_backward_pass_costs_two_forward_passes() -> None:
    model = tiny_model(attn_implementation="eager")
    ids = torch.ones(1, 11, dtype=torch.long)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    with FlopCounterMode(display=False) as both:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    assert both.get_total_flops() == pytest.approx(3 * forward.get_total_flops(), rel=0.02)


def test_keys_and_values_are_those_of_a_cache() -> None:
    model = tiny_model(num_key_value_heads=1)
    cache = model(input_ids=torch.ones(1, 5, dtype=torch.long), use_cache=True).past_key_values
    kept = sum(each.numel() for layer in cache.layers for each in (layer.keys, layer.values))
    assert Shape.of(model).key_value * Shape.of(model).layers * 5 == kept


def test_a_machine_that_reads_at_once_samples_by_operations_alone() -> None:
    shape, prompts, new = Shape.of(tiny_model()), [[1, 2, 3], [4, 5, 6]], 4
    found = sampling_seconds(shape, Rates(1e9, float("inf"), 1.0), prompts, 2, new)
    rows = [[*prompt, 10 + number] for number, prompt in enumerate(prompts * 2)]
    grown = [row + list(range(20, 20 + new - 2)) for row in rows]  # the last token is read by nobody
    work = shape.forward(distinct_tokens(prompts)) + shape.head(len(prompts))
    whole, known = plain_tokens(grown), plain_tokens(prompts * 2)
    work += shape.forward(Tokens(whole.count - known.count, whole.attended - known.attended))
    assert found == pytest.approx((work + shape.head(len(rows) * (new - 1))) / 1e9)


def test_a_machine_that_computes_at_once_samples_by_reading_weights() -> None:
    model = tiny_model(num_hidden_layers=1)
    shape, new = Shape.of(model), 6
    found = sampling_seconds(shape, Rates(float("inf"), 1e6, 1.0), [[1]], 1, new)
    embedding, norms = model.get_input_embeddings().weight.numel(), 3 * 16
    weights = 4 * (new - 1) * (sum(each.numel() for each in model.parameters()) - embedding - norms)
    cached = 4 * shape.key_value * sum(range(2, new + 1))
    assert found == pytest.approx((weights + cached) / 1e6)


def test_rates_are_of_the_faster_of_two_measurements() -> None:
    assert Rates(1.0, 5.0, 3.0).best(Rates(2.0, 4.0, 3.0)) == Rates(2.0, 5.0, 3.0)
    assert min(vars(measure_rates(size=8, mib=1)).values()) > 0
