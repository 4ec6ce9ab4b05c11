"""The decode loop gives the tokens of full forward passes, whatever is shared, moved or left out."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from prl.data.tokens import left_pad
from prl.models.policy import position_ids
from prl.rollouts import decoding, row_cache
from prl.rollouts.decoding import alike, decode_rows, keeps_every_token
from prl.rollouts.drawing import draw_tokens, uniform_table
from prl.rollouts.plain_decoding import decode_plainly
from tests.helpers.tiny import LLAMA, tiny_model

ENDS, PAD, STEPS = [1, 7, *range(30, 40)], 0, 40
LENGTHS = (9, 3, 9, 3, 3, 17, 1, 9)

SMALL: dict[str, Any] = {**LLAMA, "vocab_size": 60, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
FULL: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "eager": {"attn_implementation": "eager"},
    "qwen2": {},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "phi": {},
}
OTHERS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "head_dim": 8},
    "mamba": {"state_size": 4},
    "bloom": {"n_layer": 2, "n_head": 2},
}
SINGLE = ("eager", "gemma2", "bloom")
"""Eager attention makes NaN of padding in float64, which has no part in what these tests say."""


def model_of(kind: str) -> Any:
    fields = {**SMALL, **(FULL | OTHERS)[kind]}
    attention = fields.pop("attn_implementation", None)
    fields["model_type"] = "llama" if kind == "eager" else kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        more = {"attn_implementation": attention} if attention else {}
        dtype = torch.float32 if kind in SINGLE else torch.float64
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=dtype, **more).eval()


def batch(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Prompts of several lengths, those of length 3 equal to each other."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(40, 60, (length,), generator=generator).tolist() for length in lengths]
    rows = [rows[lengths.index(3)] if len(row) == 3 else row for row in rows]
    ids, mask = left_pad(rows, PAD)
    return ids, mask.bool()


def chooser(seed: int, rows: int, steps: int = STEPS) -> Any:
    table = uniform_table(rows, steps, torch.Generator().manual_seed(seed))
    return lambda logits, numbers, step: draw_tokens(logits, 0.8, table[numbers, step])


def settings(rows: int, limits: list[int] | None = None) -> dict[str, Any]:
    return {"limits": torch.tensor(limits or [STEPS] * rows), "end_ids": ENDS, "pad_id": PAD}


@torch.no_grad()
def by_full_passes(model: Any, ids: Tensor, mask: Tensor, choose: Any, limits: list[int]) -> list[list[int]]:
    """Each row by itself, without padding or cache: the whole text is read anew for every token."""
    found = []
    for row in range(len(ids)):
        text, own = ids[row][mask[row]].tolist(), []
        for step in range(limits[row]):
            logits = model(torch.tensor([text + own]), use_cache=False).logits[:, -1]
            own.append(int(choose(logits, torch.tensor([row]), step)))
            if own[-1] in ENDS:
                break
        found.append(own)
    return found


def rows_of(tokens: Tensor, limits: list[int]) -> list[list[int]]:
    """Each row up to its end, checking that only padding follows."""
    found = []
    for row, limit in zip(tokens.tolist(), limits, strict=True):
        ends = [place + 1 for place, token in enumerate(row) if token in ENDS]
        length = min(limit, *ends) if ends else limit
        assert set(row[length:]) <= {PAD}
        found.append(row[:length])
    return found


@pytest.mark.parametrize("kind", [*FULL, *OTHERS])
def test_tokens_are_those_of_full_passes_and_of_generate(kind) -> None:
    model, (ids, mask) = model_of(kind), batch()
    assert keeps_every_token(model) == (kind in FULL)
    limits = [STEPS, 1, 12, STEPS, 25, 3, STEPS, STEPS]
    choose = chooser(0, len(ids))
    found = decode_rows(model, ids, mask, choose, **settings(len(ids), limits))
    expected = by_full_passes(model, ids, mask, choose, limits)
    assert rows_of(found, limits) == expected
    assert found.shape[1] == max(map(len, expected))
    assert len({len(row) for row in expected}) > 3  # rows leave at different steps
    assert torch.equal(found, decode_plainly(model, ids, mask, choose, **settings(len(ids), limits)))


def test_a_cache_that_grows_forgets_nothing(monkeypatch) -> None:
    model, (ids, mask) = model_of("llama"), batch()
    choose, own = chooser(0, len(ids)), {**settings(len(ids)), "end_ids": [1]}
    monkeypatch.setattr(row_cache, "ROOM", 2)
    found = decode_rows(model, ids, mask, choose, **own)
    assert found.shape[1] > max(LENGTHS) // 2 + 1  # so many tokens had room
    assert torch.equal(found, decode_plainly(model, ids, mask, choose, **own))


def test_a_row_does_not_depend_on_the_others() -> None:
    model, (ids, mask) = model_of("llama"), batch()
    table = uniform_table(len(ids), STEPS, torch.Generator().manual_seed(2))

    def sample(rows: list[int]) -> list[list[int]]:
        own = table[rows]
        found = decode_rows(
            model, ids[rows], mask[rows], lambda x, n, step: draw_tokens(x, 1.0, own[n, step]), **settings(len(rows))
        )
        return rows_of(found, [STEPS] * len(rows))

    together = sample(list(range(len(ids))))
    assert [sample([row])[0] for row in range(len(ids))] == together
    assert sample([5, 0, 3]) == [together[row] for row in (5, 0, 3)]


class Counted:
    """Rows and tokens of each pass of a model."""

    def __init__(self, model: Any) -> None:
        self.shapes: list[tuple[int, int]] = []
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, named: dict[str, Any]) -> None:
        self.shapes.append(tuple(named["input_ids"].shape))


def test_each_prompt_is_read_once_and_rows_that_have_ended_leave() -> None:
    model, (ids, mask) = model_of("llama"), batch()
    counted = Counted(model)
    limits = [5, 1, 12, 20, 9, 3, 0, 16]
    found = decode_rows(model, ids, mask, chooser(0, len(ids)), **settings(len(ids), limits))
    lengths = [len(row) for row in rows_of(found, limits)]
    assert counted.shapes[0] == (5, 17)  # three rows share a prompt, and one has no token to come
    assert [rows for rows, _ in counted.shapes[1:]] == [
        sum(length > step for length in lengths) for step in range(1, max(lengths))
    ]
    assert found[6].tolist() == [PAD] * found.shape[1]


def test_the_cache_grows_without_a_change(monkeypatch) -> None:
    model, (ids, mask) = model_of("llama"), batch()
    expected = decode_rows(model, ids, mask, chooser(0, len(ids)), **settings(len(ids)))
    monkeypatch.setattr("prl.rollouts.row_cache.ROOM", 2)
    assert torch.equal(decode_rows(model, ids, mask, chooser(0, len(ids)), **settings(len(ids))), expected)


def test_prompts_of_unlike_lengths_are_read_apart_to_the_same_tokens(monkeypatch) -> None:
    model, (ids, mask) = model_of("llama"), batch()
    expected = decode_rows(model, ids, mask, chooser(0, len(ids)), **settings(len(ids)))
    monkeypatch.setattr(decoding, "PASS", 1)
    counted = Counted(model)
    assert torch.equal(decode_rows(model, ids, mask, chooser(0, len(ids)), **settings(len(ids))), expected)
    assert sorted(counted.shapes[:4]) == [(1, 1), (1, 3), (1, 17), (3, 9)]


def test_groups_of_lengths() -> None:
    assert alike([5, 5, 5]) == [[0, 1, 2]]
    assert alike([10, 400, 12, 390]) == [[1, 3], [2, 0]]
    assert alike([10, 20]) == [[1, 0]]  # a pass costs more than ten tokens of padding
    assert alike([7]) == [[0]]


@pytest.mark.parametrize("elsewhere", [0, 3])
def test_in_step_with_other_processes_passes_go_on_and_tokens_stay(elsewhere, monkeypatch) -> None:
    """Other processes need `elsewhere` passes more."""
    model, (ids, mask) = model_of("llama"), batch()
    expected = decode_rows(model, ids, mask, chooser(0, len(ids)), **settings(len(ids)))
    left, counted, asked = [elsewhere], Counted(model), []

    def global_max(value: Tensor) -> Tensor:
        asked.append(int(value))
        if not value:
            left[0] -= 1
        return torch.tensor(int(value or left[0] >= 0))

    monkeypatch.setattr(decoding, "global_max", global_max)
    found = decode_rows(model, ids, mask, chooser(0, len(ids)), synced=True, **settings(len(ids)))
    assert torch.equal(found, expected)
    assert asked == [1] * (expected.shape[1] - 1) + [0] * (elsewhere + 1)
    assert len(counted.shapes) == 1 + expected.shape[1] - 1 + elsewhere


def test_padding_that_is_not_on_the_left_is_refused() -> None:
    model, (ids, mask) = tiny_model(), batch()
    mask[1] = False
    with pytest.raises(ValueError, match="prompt 1 ends in padding or has padding behind a token"):
        decode_rows(model, ids, mask, chooser(0, len(ids)), **settings(len(ids)))


def test_positions_stay_within_the_model_when_a_long_prompt_ends_early() -> None:
    model, (ids, mask) = model_of("gpt2"), batch((17, 1))
    seen: list[int] = []
    model.transformer.register_forward_pre_hook(  # behind what changes the arguments of the whole model
        lambda _, __, named: seen.append(int(named["position_ids"].max())), with_kwargs=True
    )
    for decode in (decode_rows, decode_plainly):
        decode(model, ids, mask, lambda x, n, s: torch.full_like(n, 50), **settings(2, [2, 15]))
    assert max(seen) <= 18
    assert int(position_ids(mask).max()) == 16
