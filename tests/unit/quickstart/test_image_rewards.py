"""Likeness to the pictures of a subject: of the subject wherever it is, of others less."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prl.quickstart.images import Look, Scene, from_uint8, reference, render, to_uint8, write_arrays
from prl.quickstart.images.rewards import LikenessToReferences, best_cosine

RING = Look(texture="ring")


def shown(place: str, look: Look = RING, colour: str = "blue", shape: str = "circle") -> torch.Tensor:
    return from_uint8(to_uint8(render(Scene(shape, colour, place), look)[None]))


@pytest.fixture
def references(tmp_path: Path) -> str:
    pictures = torch.cat([shown("middle"), shown("left")])
    write_arrays(tmp_path, "subject", to_uint8(pictures))
    rows = [{"prompt": f"picture {n}", "image": reference("subject", n)} for n in range(2)]
    (tmp_path / "references.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "references.jsonl")


def test_the_cosine_at_the_best_shift_is_that_of_a_search(references) -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(1, 3, 6, 6).double(), torch.randn(1, 3, 6, 6).double()
    ours, theirs = (each - each.mean((-2, -1), keepdim=True) for each in (ours, theirs))
    moved = [theirs.roll((down, right), (-2, -1)) for down in range(6) for right in range(6)]
    best = max(float(torch.cosine_similarity(ours.flatten(), each.flatten(), dim=0)) for each in moved)
    assert float(best_cosine(ours, theirs)) == pytest.approx(best, abs=1e-9)
    assert float(best_cosine(theirs.roll(2, -1) + 0.3, theirs)) == pytest.approx(1, abs=1e-9)


def test_the_subject_is_the_likest_wherever_it_is(references) -> None:
    reward = LikenessToReferences(references)
    subject = torch.cat([shown(place) for place in ("middle", "right", "top")])
    others = [shown("middle", Look()), shown("middle", colour="red"), shown("middle", shape="square")]
    told = reward.score(torch.cat(others), [""] * 3)
    own = reward.score(subject, [""] * 3)  # places are not whole pixels apart, so even the subject is not quite 1
    assert float(told[:2].max()) < float(own.min())
    assert float(told[2]) < float(own[0])  # a square is told from a circle in the same place only


def test_it_lies_between_0_and_1(references) -> None:
    reward = LikenessToReferences(references)
    noise = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (8, 3, 16, 16))).float()
    for pictures in (noise, -shown("left"), torch.zeros(1, 3, 16, 16)):
        found = reward.score(pictures, [""] * len(pictures))
        assert bool(((found >= 0) & (found <= 1)).all())
