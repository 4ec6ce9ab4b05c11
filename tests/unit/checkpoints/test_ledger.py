"""The ledger: what is a difference, how large it is, and what a resumed run leaves behind."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.checkpoints.ledger import (
    LedgerWriter,
    compare,
    content_hash,
    fingerprint,
    read_ledger,
    state_numbers,
    weights_fingerprint,
)


def line(batch: int = 1, **changed: Any) -> dict[str, Any]:
    whole = {
        **{"batch": batch, "data": "d", "rng": "r", "learning_rate": [1e-6, 2e-6], "state": {"kl": {"coef": 0.1}}},
        **{"responses": "x", "rewards": fingerprint(torch.tensor([0.5, -1.0, 2.0]))},
        **{"numbers": {"policy/loss": 0.0, "value/loss": 0.3}, "weights": fingerprint(torch.ones(3))},
    }
    return {**whole, **changed}


def test_equal_lines_have_no_difference() -> None:
    assert compare([line(1), line(2)], [line(1), line(2)], tolerance=0) is None
    missing = {"numbers": {"policy/loss": float("nan")}}
    assert compare([line(**missing)], [line(**missing)], tolerance=0) is None


@pytest.mark.parametrize(
    ("changed", "quantity"),
    [
        ({"data": "e"}, "data"),
        ({"rng": "s"}, "rng"),
        ({"learning_rate": [1e-6, 2.1e-6]}, "learning_rate"),
        ({"state": {"kl": {"coef": 0.11}}}, "state.kl.coef"),
        ({"state": {"kl": {"coef": 0.1}, "bank": {"version": 3}}}, "state"),
        ({"responses": "y"}, "responses"),
        ({"rewards": fingerprint(torch.tensor([-1.0, 0.5, 2.0]))}, "rewards"),
        ({"numbers": {"policy/loss": 0.01, "value/loss": 0.3}}, "numbers.policy/loss"),
        ({"numbers": {"policy/loss": float("nan"), "value/loss": 0.3}}, "numbers.policy/loss"),
        ({"weights": fingerprint(torch.tensor([1.0, 1.0, 1.1]))}, "weights"),
    ],
)
def test_the_first_quantity_that_differs_is_named(changed: dict[str, Any], quantity: str) -> None:
    later = line(2, data="another", rng="another")
    found = compare([line(1), line(2)], [line(1, **changed, **{}), later], tolerance=1e-4)
    assert found is not None
    assert (found.batch, found.quantity) == (1, quantity)
    assert found.size > 1e-4
    assert found.diagnosis


def test_rounding_is_measured_and_the_largest_difference_kept() -> None:
    other = line(
        rewards=fingerprint(torch.tensor([0.5, -1.0, 2.00001])), numbers={"policy/loss": 2e-8, "value/loss": 0.3}
    )
    found = compare([line()], [other], tolerance=1e-4)
    assert found is not None
    assert found.quantity == "numbers.policy/loss"  # 2e-8 of a loss that is zero: measured against a thousandth
    assert found.size == pytest.approx(2e-5)
    beyond = compare([line()], [other], tolerance=1e-6)
    assert beyond is not None
    assert beyond.quantity == "rewards"


def test_a_hash_sees_what_is_in_tensors_and_their_shapes() -> None:
    values = [
        *({"a": torch.tensor([1, 2])}, {"a": torch.tensor([2, 1])}, {"a": torch.tensor([[1, 2]])}),
        *({"a": torch.tensor([1.0, 2.0])}, {"b": torch.tensor([1, 2])}, {"a": [torch.tensor(1), torch.tensor(2)]}),
        *(["ab", "c"], ["a", "bc"], [["a"], "bc"], [torch.tensor([])], []),
    ]
    assert len({content_hash(value) for value in values}) == len(values)
    assert content_hash({"a": torch.tensor([1, 2]), "b": 1}) == content_hash({"b": 1, "a": torch.tensor([1, 2])})


def test_the_weights_fingerprint_reaches_every_part_of_a_large_model() -> None:
    parameters = [torch.randn(100, 30) for _ in range(20)]
    before = weights_fingerprint(parameters)
    for each in parameters[::7]:
        changed = [other + 1e-3 * (other is each) for other in parameters]
        assert weights_fingerprint(changed) != before
    assert len(json.dumps(before)) < 200


def test_states_are_numbers_and_hashes() -> None:
    state = {"coef": 0.5, "name": None, "anchors": ["a", "b"], "inner": {"count": 3}}
    assert state_numbers(state) == {
        "coef": 0.5,
        "name": None,
        "anchors": content_hash(["a", "b"]),
        "inner": {"count": 3},
    }


def write(path: Path, resumed: int, *batches: int, **changed: Any) -> None:
    writer = LedgerWriter(path, resumed, {"prl": "0"})
    for batch in batches:
        writer.append(line(batch, **changed))
    writer.close()


def test_batches_that_come_again_replace_those_of_the_interrupted_session(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 0, 1, 2, 3, 4, data="first")
    with open(path, "a") as file:
        file.write('{"batch": 5, "da')  # killed in the middle of a line
    write(path, 2, 3, data="second")
    lines, facts = read_ledger(path)
    assert {batch: kept["data"] for batch, kept in lines.items()} == {1: "first", 2: "first", 3: "second"}
    assert facts == {"resumed": 2, "prl": "0"}
    assert path.read_text().count("first") == 4  # nothing is taken away
    write(path, 0, 1, data="anew")
    assert read_ledger(path)[0].keys() == {1}


def test_a_cut_last_line_is_left_out_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 0, 1, 2, 3)
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert read_ledger(path)[0].keys() == {1, 2}
    rows = whole.splitlines()
    path.write_text("\n".join([*rows[:2], rows[2][:20], rows[3]]) + "\n")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        read_ledger(path)
    with pytest.raises(ValueError, match="there is no ledger"):
        read_ledger(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"[1]",
        b"7",
        b'"text"',
        b'{"batch": "2"}',
        b"{}",
        b'{"session": 1}',
        b'{"session": {}}',
        b"\xff\xfe",
    ],
)
def test_a_line_that_is_none_of_a_ledger_is_told_with_its_number(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 0, 1, 2)
    first, *rest = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, text, *rest]) + b"\n")
    with pytest.raises(ValueError, match=r"ledger.jsonl, line 2 is damaged"):
        read_ledger(path)


@pytest.mark.parametrize(
    "rewards", [{"sums": [1.0]}, {"sums": None, "norm": 1.0}, {"sums": ["a", "b"], "norm": 1.0}, 3]
)
def test_a_fingerprint_that_was_changed_is_another_one(rewards: Any) -> None:
    found = compare([line(1, rewards=rewards)], [line(1)], tolerance=1e-4)
    assert found is not None
    assert (found.quantity, found.size) == ("rewards", math.inf)
