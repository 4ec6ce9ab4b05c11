"""The split of records into training and validation, from the keys of the prompts alone."""

import hashlib

import numpy as np


def held_out(prompt_keys: np.ndarray, validation_share: float, seed: int) -> np.ndarray:
    """Choose the records that validate, so that all records of a prompt are on one side: [N] bool.

    Prompts are ranked by a hash of seed and content, and the first share of them is held out. So the row order does not
    matter, and new data moves few old prompts to the other side.

    Args:
        prompt_keys: SHA-256 of each record's prompt, [N] of dtype S32.
        validation_share: share of the prompts held out.
        seed: seed of the ranking.

    Raises:
        ValueError: `validation_share` is not in [0, 1), or there are too few prompts for two sides.
    """
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}; expected a number in [0, 1)")
    if validation_share == 0:
        return np.zeros(len(prompt_keys), bool)
    prompts, prompt_of = np.unique(prompt_keys, return_inverse=True)
    if len(prompts) < 2:
        raise ValueError(f"validation_share is {validation_share}, but {len(prompts)} prompt(s) cannot fill two sides")
    # numpy strips trailing zero bytes.
    names = (key.ljust(32, b"\0").hex() for key in prompts.tolist())
    ranks = np.array([hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names], "S32")
    num_held_out = min(max(round(validation_share * len(prompts)), 1), len(prompts) - 1)
    chosen = np.zeros(len(prompts), bool)
    chosen[np.argsort(ranks, kind="stable")[:num_held_out]] = True
    return chosen[prompt_of]
