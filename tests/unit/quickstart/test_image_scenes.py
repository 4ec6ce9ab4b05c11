"""Scenes and clips as they are drawn, their prompts, files of pictures, and the digits."""

import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.quickstart import images as world
from prl.quickstart.images import (
    ALL,
    CLIP_PROMPTS,
    CLIP_WORDS,
    COLOURS,
    PLACES,
    SHAPES,
    TEXTURES,
    WORDS,
    Look,
    Scene,
    corrupt,
    parse_clip_prompt,
    parse_prompt,
    random_look,
    render,
    render_clip,
)
from prl.quickstart.images.scenes import ATTRIBUTES, draw

RED = Scene("circle", "red", "left")

# ---- words


def test_prompts_say_the_scene() -> None:
    assert RED.prompt == "a red circle on the left"
    assert Scene("triangle", "yellow", "middle").prompt == "a yellow triangle in the middle"
    assert Scene("square", "blue", "top").prompt == "a blue square at the top"
    assert len(ALL) == len({scene.prompt for scene in ALL}) == 60
    assert all(parse_prompt(scene.prompt) == scene for scene in ALL)


def test_words_are_those_of_the_prompts() -> None:
    assert set(WORDS) == {"a", "on", "at", "in", "the", *COLOURS, *SHAPES, *PLACES}
    assert set(CLIP_WORDS) == set(WORDS) | {"moving", "up", "down"}


def test_clip_prompts() -> None:
    assert world.clip_prompt(RED, "up") == "a red circle moving up"
    assert parse_clip_prompt("a blue square moving down") == ("square", "blue", "down")
    assert len(set(CLIP_PROMPTS)) == 48


@pytest.mark.parametrize("text", ["", "a red circle", "a red circle at the left", "A red circle on the left", "red"])
def test_other_texts_are_no_prompts(text: str) -> None:
    with pytest.raises(ValueError, match=f"prompt {text!r} describes no scene; expected a text as 'a red circle on"):
        parse_prompt(text)
    with pytest.raises(ValueError, match=f"prompt {text!r} describes no clip; .* a move of left, right, up, down"):
        parse_clip_prompt(text)


@given(st.sampled_from(ALL), st.integers(0, 3), st.integers(0, 10_000))
def test_corruption_changes_as_many_attributes_as_asked(scene: Scene, count: int, seed: int) -> None:
    other = corrupt(scene, Random(seed), count)
    changed = [name for name in ATTRIBUTES if getattr(scene, name) != getattr(other, name)]
    assert len(changed) == count


# ---- pictures


def test_a_picture_by_hand() -> None:
    """A square of radius 2.8 has sides of 4.963, which reach over the pixels 6 to 9 and 0.481 into their neighbours."""
    picture = render(Scene("square", "green", "middle"), Look(size=2.8, background=-0.5))
    assert picture.shape == (3, 16, 16)
    assert picture.dtype == np.float32
    assert (picture[:, 6:10, 6:10] == np.array([-1, 1, -1])[:, None, None]).all()
    assert picture[1, 5, 7] == pytest.approx(-0.5 + 0.5 * 1.5)  # two of four lines of sub-samples
    assert picture[1, 5, 5] == pytest.approx(-0.5 + 0.25 * 1.5)
    outside = np.ones((16, 16), bool)
    outside[5:11, 5:11] = False
    assert (picture[:, outside] == -0.5).all()


@given(st.sampled_from(ALL), st.integers(0, 10_000), st.sampled_from(TEXTURES), st.sampled_from([12, 16, 24]))
def test_pictures_are_in_range_and_equal_for_equal_arguments(scene, seed, texture, pixels) -> None:
    look = random_look(Random(seed), texture)
    picture = render(scene, look, pixels)
    assert abs(picture).max() <= 1
    assert picture.tobytes() == render(scene, random_look(Random(seed), texture), pixels).tobytes()
    assert picture[:, 0, 0] == pytest.approx([look.background] * 3)


def test_a_larger_picture_shows_the_same_scene() -> None:
    look = random_look(Random(3))
    for scene in ALL[::7]:
        halved = render(scene, look, 32).reshape(3, 16, 2, 16, 2).mean((2, 4))
        assert abs(halved - render(scene, look)).mean() < 0.01


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_textures_differ_and_keep_the_outline(shape: str) -> None:
    plain, ring, stripes = (render(replace(RED, shape=shape), Look(texture=each)) for each in TEXTURES)
    for one, other in ((plain, ring), (plain, stripes), (ring, stripes)):
        assert abs(one - other).max() > 0.5
        np.testing.assert_array_equal(one[0], other[0])  # light red is as red


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Scene("cross", "red", "left"), "shape is 'cross'; expected one of circle, square, triangle"),
        (lambda: Scene("circle", "pink", "left"), "colour is 'pink'"),
        (lambda: Scene("circle", "red", "up"), "place is 'up'"),
        (lambda: Look(size=5.0), "size is 5.0; expected 2.6 to 3.8"),
        (lambda: Look(background=0.0), "background is 0.0"),
        (lambda: Look(background=float("nan")), "background is nan"),
        (lambda: Look(shift=(0.0, -0.6)), "shift along y is -0.6"),
        (lambda: Look(texture="dots"), "texture is 'dots'"),
        (lambda: render(RED, Look(), 11), "pixels is 11; expected at least 12"),
        (lambda: corrupt(RED, Random(0), 4), "count is 4"),
        (lambda: render_clip(RED, "forward", Look()), "move is 'forward'; expected one of left, right, up, down"),
        (lambda: render_clip(RED, "left", Look(), frames=1), "frames is 1; expected at least 2"),
    ],
)
def test_values_that_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_clip_crosses_the_picture_on_its_line() -> None:
    scene, look = Scene("circle", "yellow", "bottom"), Look(size=3.0, shift=(0.2, -0.1))
    clip = render_clip(scene, "left", look, frames=3)
    assert clip.shape == (3, 3, 16, 16)
    for frame, x in zip(clip, (8 + 3.4, 8, 8 - 3.4), strict=True):
        expected = draw(scene, look, (x + 0.2, 8 + 3.4 - 0.1), 16)
        np.testing.assert_allclose(frame, expected, atol=1e-6)
    across = render_clip(scene, "down", look, frames=3)
    np.testing.assert_allclose(across[1], render(replace(scene, place="middle"), look), atol=1e-6)
    assert clip.tobytes() == render_clip(scene, "left", look, frames=3).tobytes()


# ---- files


def test_bytes_and_back() -> None:
    image = torch.tensor([-1.0, -0.5, 0.0, 0.001, 0.5, 1.0, -3.0, 7.0]).repeat(2, 3, 4, 1)
    found = world.to_uint8(image)
    assert found.shape == (2, 4, 8, 3)
    assert found[0, 0, :, 0].tolist() == [0, 64, 128, 128, 191, 255, 0, 255]
    back = world.from_uint8(found)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, image.clamp(-1, 1), atol=1.0001 / 255, rtol=0)


@given(st.integers(0, 10_000))
def test_bytes_survive_the_way_there_and_back(seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (2, 3, 5, 6, 3), np.uint8)
    np.testing.assert_array_equal(world.to_uint8(world.from_uint8(array)), array)


def test_arrays_are_written_whole(tmp_path: Path) -> None:
    array = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert world.write_arrays(tmp_path / "new", "pictures.train", array) == "pictures.train.npy"
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "pictures.train.npy"), array)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pictures.train.npy"]
    assert world.reference("pictures.train", 12) == "pictures.train.npy#12"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: world.to_uint8(torch.zeros(1, 4, 4)), r"shape \(1, 4, 4\); expected \[..., 3, H, W\]"),
        (lambda: world.to_uint8(torch.full((3, 4, 4), torch.nan)), "48 numbers of the images are not finite"),
        (lambda: world.from_uint8(np.zeros((4, 4, 3))), "images are float64; expected uint8"),
        (lambda: world.from_uint8(np.zeros((3, 4, 4), np.uint8)), r"expected \[..., H, W, 3\]"),
        (lambda: world.write_arrays(Path("x"), "x", np.zeros((4, 4, 3), np.uint8)), r"expected \[N, H, W, 3\]"),
        (lambda: world.reference("x", -1), "index is -1"),
    ],
)
def test_arrays_that_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# ---- digits


def test_rewards_of_digits_by_hand() -> None:
    image = torch.tensor([[[[1.0, -1.0], [0.5, 0.5]]], [[[-1.0, -1.0], [0.0, 1.0]]]])
    torch.testing.assert_close(world.ink(image), torch.tensor([0.25, -0.25]))
    torch.testing.assert_close(world.symmetry(image), torch.tensor([-1.0, -0.5]))


def test_digits() -> None:
    pytest.importorskip("sklearn")
    images, labels = world.digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max(), images.dtype) == (-1, 1, torch.float32)
    assert labels.bincount().min() > 150
    zeros, ones = (images[labels == digit] for digit in (0, 1))
    assert world.symmetry(zeros).mean() > world.symmetry(ones).mean()


def test_digits_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        world.digits()
