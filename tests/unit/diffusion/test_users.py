"""Users by their comparisons: what a token is, and which files are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prl.data.images import as_tensor
from prl.data.rows.sources import DataError
from prl.diffusion.rewards.clip_scorer import ClipScorer
from prl.diffusion.rewards.conv_scorer import ConvScorer
from prl.diffusion.rewards.scorers import load_scorer
from prl.diffusion.users import UserExamples, Users
from tests.helpers.pictures import tokenizer

Row = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("users")
    torch.manual_seed(0)
    ConvScorer(tokenizer(), image_size=8, width=8).save(folder / "scorer")
    np.save(folder / "all.npy", np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8))
    np.save(folder / "wide.npy", np.zeros((8, 9, 3), dtype=np.uint8))
    return folder


def row(user: Any, chosen: int, rejected: int, **more: Any) -> Row:
    return {"user": user, "prompt": "a", "chosen": f"all.npy#{chosen}", "rejected": f"all.npy#{rejected}", **more}


def users(home: Path, rows: list[Row], per_user: int = 2) -> Users:
    (home / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return Users(UserExamples(str(home / "rows.jsonl"), str(home / "scorer"), per_user))


ROWS = [row("ann", 0, 1), row(7, 1, 0), row("ann", 2, 3), row(7, 3, 2), row("ann", 4, 5)]


def test_a_token_is_the_scaled_difference_of_embeddings(home) -> None:
    found = users(home, ROWS)
    assert list(found.numbers) == ["ann", "7"]
    assert found.tokens.shape == (2, 2, found.width)
    assert not list(found.parameters())
    assert not found.state_dict()
    scorer = load_scorer(str(home / "scorer"))
    pixels = np.load(home / "all.npy")
    difference = scorer.embed(as_tensor(pixels[2])[None]) - scorer.embed(as_tensor(pixels[3])[None])
    expected = (difference / difference.square().mean().sqrt())[0].detach()
    torch.testing.assert_close(found.of(["7", "ann"])[1, 1], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.of(["7"]), -found.of(["ann"]))  # the same pairs, labelled the other way round
    assert torch.equal(found.nobody(3), torch.zeros(3, 2, found.width))


def test_the_first_comparisons_of_each_user_are_read(home) -> None:
    whole, cut = users(home, ROWS), users(home, [*ROWS[:4], row("ann", 6, 7)])
    assert torch.equal(whole.tokens, cut.tokens)
    assert whole.fingerprint == cut.fingerprint
    other = users(home, [row("ann", 8, 1), *ROWS[1:]])
    assert other.fingerprint != whole.fingerprint
    turned = users(home, [ROWS[0] | {"preference": 0.0}, ROWS[2]])
    torch.testing.assert_close(turned.tokens[0, 0], -whole.tokens[0, 0])


def test_what_cannot_be_read_is_named(home) -> None:
    with pytest.raises(DataError, match="user '7' has 1 comparisons in .*; expected at least 2"):
        users(home, ROWS[:3])
    without = {key: each for key, each in ROWS[0].items() if key != "user"}
    with pytest.raises(DataError, match="row 2, field 'user': found further columns none .*name or number of a user"):
        users(home, [ROWS[0], without])
    with pytest.raises(DataError, match="row 2, field 'rejected': found .* a row from 0 to 11"):
        users(home, [ROWS[0], row("ann", 1, 12)])
    with pytest.raises(DataError, match=r"row 2, field 'chosen': found a picture of \[8, 9, 3\] \(another size\)"):
        users(home, [ROWS[0], ROWS[2] | {"chosen": "wide.npy"}])
    with pytest.raises(DataError, match="row 1: found a tie"):
        users(home, [ROWS[0] | {"preference": 0.5}])
    with pytest.raises(ValueError, match="user 'bob' has no comparisons in .*rows.jsonl; add 2 of them"):
        users(home, ROWS).of(["bob"])
    with pytest.raises(ValueError, match="users.per_user is 0"):
        UserExamples("a", "b", 0)


def test_clip_embeds_pictures_as_transformers_does() -> None:
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    config = CLIPConfig(text_config={**sizes, "vocab_size": 9}, vision_config=vision, projection_dim=6)
    scorer = ClipScorer(CLIPModel(config).eval(), tokenizer())
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    pixels = ((images + 1) / 2 - scorer.mean) / scorer.std
    expected = scorer.clip(input_ids=torch.tensor([[1, 2]]), pixel_values=pixels).image_embeds
    found = scorer.embed(images)
    torch.testing.assert_close(found / found.norm(dim=1, keepdim=True), expected)
