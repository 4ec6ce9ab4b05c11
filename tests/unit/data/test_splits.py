import hashlib
import random

import numpy as np
import pytest

from prl.data import held_out


def keys_over(num_prompts: int) -> np.ndarray:
    """Keys of records, three of each prompt; those of some prompts end in zero bytes."""
    names = [hashlib.sha256(str(i).encode()).digest()[: 31 + i % 2].ljust(32, b"\0") for i in range(num_prompts)]
    return np.array(3 * names, "S32")


def test_split_keeps_prompts_together_and_ignores_row_order() -> None:
    keys = keys_over(20)
    validates = held_out(keys, 0.25, seed=1)
    assert (validates.sum(), len(validates)) == (15, 60)
    assert not set(keys[validates]) & set(keys[~validates])
    order = random.Random(0).sample(range(60), 60)
    assert np.array_equal(held_out(keys[order], 0.25, seed=1), validates[order])
    assert not np.array_equal(held_out(keys, 0.25, seed=2), validates)


def test_split_is_the_ranking_of_seed_and_prompt() -> None:
    keys = keys_over(20)
    names = {bytes(key).ljust(32, b"\0").hex() for key in keys}
    first = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).digest())[:5]
    expected = [bytes(key).ljust(32, b"\0").hex() in first for key in keys]
    assert held_out(keys, 0.25, seed=7).tolist() == expected


def test_split_never_leaves_a_side_empty() -> None:
    keys = keys_over(2)
    for share in (0.01, 0.99):
        assert held_out(keys, share, seed=0).sum() == 3
    assert not held_out(keys, 0, seed=0).any()
    with pytest.raises(ValueError, match=r"1 prompt\(s\) cannot fill two sides"):
        held_out(keys_over(1), 0.5, seed=0)
    with pytest.raises(ValueError, match="validation_share is 1; expected a number in"):
        held_out(keys, 1, seed=0)
