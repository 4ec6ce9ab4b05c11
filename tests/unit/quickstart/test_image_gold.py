"""The exact check of pictures and clips, and tastes: right is right, wrong is wrong, and noise is nothing."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.quickstart.images import (
    ALL,
    COLOURS,
    MOVES,
    PLACES,
    SHAPES,
    TASTES,
    TEXTURES,
    Look,
    Scene,
    attributes,
    background,
    clip_prompt,
    clip_scores,
    corrupt,
    figure_share,
    from_uint8,
    gold,
    random_look,
    read,
    render,
    render_clip,
    taste_of,
    to_uint8,
)
from prl.quickstart.images.scenes import ATTRIBUTES

SEEDS = st.integers(0, 100_000)
SCENES = st.sampled_from(ALL)
PROMPT = ALL[0].prompt


def pictures(scenes: list[Scene], looks: list[Look], pixels: int = 16) -> Tensor:
    drawn = [render(scene, look, pixels) for scene, look in zip(scenes, looks, strict=True)]
    return torch.from_numpy(np.stack(drawn))


def extreme_looks() -> list[Look]:
    """Smallest and largest, darkest and brightest, farthest from the middle and nearest."""
    return [
        Look(size, ground, (x, y), texture)
        for (size, ground), (x, y), texture in zip(
            [(2.6, -1.0), (2.6, -0.3), (3.8, -1.0), (3.8, -0.3)] * 3,
            [(-0.5, -0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, 0.5), (0.0, 0.0), (0.13, -0.31)] * 2,
            TEXTURES * 4,
            strict=True,
        )
    ]


# ---- pictures


@pytest.mark.parametrize("pixels", [12, 16, 32])
def test_every_scene_is_right_in_every_look(pixels: int) -> None:
    generator = Random(pixels)
    drawn = [random_look(generator, texture) for texture in TEXTURES]
    looks = [*extreme_looks(), *drawn] if pixels == 16 else drawn
    scenes = [scene for scene in ALL for _ in looks]
    images = pictures(scenes, looks * len(ALL), pixels)
    found = attributes(images, [scene.prompt for scene in scenes])
    assert set(found) == {"shape", "colour", "place", "clarity"}
    for name in ATTRIBUTES:
        assert found[name].dtype == torch.float64
        assert (found[name] == 1).all(), [scenes[at] for at in (found[name] < 1).nonzero()]
    assert gold(images, [scene.prompt for scene in scenes]).min() > 0.9
    assert found["clarity"].max() <= 1


@given(SCENES, SEEDS, st.sampled_from(TEXTURES), st.integers(0, 3))
def test_gold_counts_wrong_attributes(scene: Scene, seed: int, texture: str, mistakes: int) -> None:
    """Also after a way through bytes."""
    generator = Random(seed)
    shown = corrupt(scene, generator, mistakes)
    images = from_uint8(to_uint8(render(shown, random_look(generator, texture))))[None]
    found = attributes(images, [scene.prompt])
    for name in ATTRIBUTES:
        assert found[name].item() == float(getattr(shown, name) == getattr(scene, name))
    assert gold(images, [scene.prompt]).item() == pytest.approx((3 - mistakes) / 3, abs=0.1)


def test_readings_name_what_is_seen() -> None:
    scenes = list(ALL)
    looks = [random_look(Random(at)) for at in range(len(ALL))]
    found = read(pictures(scenes, looks))
    assert [SHAPES[at] for at in found.shape] == [scene.shape for scene in scenes]
    assert [COLOURS[at] for at in found.colour] == [scene.colour for scene in scenes]
    assert [PLACES[at] for at in found.place] == [scene.place for scene in scenes]
    middle = [at for at, scene in enumerate(scenes) if scene.place == "middle"]
    shifts = torch.tensor([looks[at].shift for at in middle], dtype=torch.float64)
    assert (found.centre[middle] - 8 - shifts).abs().max() < 0.2


def bad_pictures() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    grid = torch.ones(3, 16, 16)
    blots = grid * -0.7
    blots[0, 2:6, 2:6] = blots[0, 10:14, 10:14] = 1.0
    half = grid * -0.7
    half[:, :, :8] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    return {
        "even noise": torch.rand(50, 3, 16, 16, generator=draw) * 2 - 1,
        "normal noise": torch.randn(50, 3, 16, 16, generator=draw),
        "faint noise": torch.randn(50, 3, 16, 16, generator=draw) * 0.1 - 0.6,
        "noise in grey": torch.randn(50, 1, 16, 16, generator=draw).expand(-1, 3, -1, -1),
        "grey": torch.linspace(-1, 1, 9)[:, None, None, None] * grid,
        "red": (grid * torch.tensor([1.0, -1.0, -1.0])[:, None, None])[None],
        "half red": half[None],
        "two red squares": blots[None],
        "beyond the range": torch.randn(50, 3, 16, 16, generator=draw) * 1e6,
    }


@pytest.mark.parametrize("name", bad_pictures())
def test_what_shows_no_figure_is_worth_nothing(name: str) -> None:
    images = bad_pictures()[name]
    for scene in ALL[::7]:
        assert gold(images, [scene.prompt] * len(images)).max() < 0.1
    found = attributes(images, [PROMPT] * len(images))
    is_nothing = found["clarity"] == 0
    assert all((found[each][is_nothing] == 0).all() for each in ATTRIBUTES)


def test_white_and_pale_figures_have_no_colour_and_two_halves_have_none() -> None:
    image = render(Scene("square", "red", "middle"), Look())
    white = torch.from_numpy(image).max(0, keepdim=True).values.expand(3, -1, -1)
    pale = 0.9 * white + 0.1 * torch.from_numpy(image)
    halves = torch.from_numpy(image).clone()
    halves[:, :, 8:] = torch.from_numpy(render(Scene("square", "blue", "middle"), Look()))[:, :, 8:]
    found = read(torch.stack([white, pale, halves]))
    assert found.colour.tolist() == [-1, -1, -1]
    assert found.clarity.min() > 0.9


@pytest.mark.parametrize(("contrast", "least", "most"), [(0.9, 0.7, 0.98), (0.65, 0.25, 0.5)])
def test_a_faded_figure_is_still_read_but_worth_less(contrast: float, least: float, most: float) -> None:
    ground = -0.7
    images = ground + contrast * (pictures(list(ALL), [Look(background=ground)] * len(ALL)) - ground)
    prompts = [scene.prompt for scene in ALL]
    found = attributes(images, prompts)
    assert all((found[name] == 1).all() for name in ATTRIBUTES)
    assert gold(images, prompts).min() > least
    assert gold(images, prompts).max() < most


def test_clarity_falls_as_noise_grows() -> None:
    scenes = list(ALL)
    clean = pictures(scenes, [random_look(Random(at)) for at in range(len(ALL))])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    prompts = [scene.prompt for scene in scenes]
    found = [gold(clean + scale * noise, prompts).mean().item() for scale in (0.0, 0.05, 0.1, 0.2, 0.4)]
    assert found == sorted(found, reverse=True)
    assert found[1] > 0.9
    assert found[-1] < 0.1


def test_a_picture_is_scored_alike_alone_and_among_others() -> None:
    """Pictures are read in chunks, the last of which may be of one."""
    scenes = [*ALL, *ALL[:5]]
    images = pictures(scenes, [random_look(Random(at)) for at in range(len(scenes))])
    prompts = [scene.prompt for scene in scenes]
    whole = gold(images, prompts)
    assert whole.shape == (65,)
    torch.testing.assert_close(gold(images[-1:], prompts[-1:]), whole[-1:])
    assert gold(images[:0], []).shape == (0,)


@pytest.mark.parametrize(
    ("images", "prompts", "words"),
    [
        (torch.zeros(2, 3, 16, 16), [PROMPT], "1 prompts for 2 images"),
        (torch.zeros(1, 3, 16, 16), ["a cat"], "prompt 'a cat' describes no scene"),
        (torch.zeros(1, 1, 16, 16), [PROMPT], r"shape \(1, 1, 16, 16\); expected \[N, 3, H, H\]"),
        (torch.zeros(1, 3, 16, 15), [PROMPT], r"expected \[N, 3, H, H\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), [PROMPT], "images are torch.uint8; expected floating-point"),
        (torch.tensor([0.0, torch.nan])[:, None, None, None].expand(2, 3, 16, 16), [PROMPT] * 2, "image 1 holds"),
    ],
)
def test_input_that_is_refused(images: Tensor, prompts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gold(images, prompts)


# ---- tastes


@given(SCENES, SEEDS)
def test_tastes_order_looks(scene: Scene, seed: int) -> None:
    look = random_look(Random(seed))
    small, large, bright = (replace(look, **each) for each in ({"size": 2.7}, {"size": 3.7}, {"background": -0.3}))
    small, large = (replace(each, background=-0.6) for each in (small, large))
    images = pictures([scene] * 3, [small, large, replace(bright, size=2.7)])
    scores = {name: taste_of(name).score(images).tolist() for name in TASTES}
    assert scores["large"][0] < scores["large"][1]
    assert scores["small"][0] > scores["small"][1]
    assert scores["bright"][2] > scores["bright"][0] == pytest.approx(-0.6)
    assert scores["small_and_bright"][0] > scores["small_and_bright"][1]
    assert scores["small_and_bright"][2] > scores["small_and_bright"][0]
    assert scores["small_and_bright"][0] == pytest.approx(7 * scores["small"][0] + scores["bright"][0])


def test_ground_and_share_by_hand() -> None:
    images = pictures([Scene("square", "blue", "top")], [Look(size=3.0, background=-0.4)])
    assert background(images).item() == pytest.approx(-0.4)
    assert figure_share(images).item() == pytest.approx(torch.pi * 9 / 256, rel=0.05)


def test_an_unknown_user_is_refused() -> None:
    with pytest.raises(ValueError, match="user is 'me'; expected one of large, small, bright, small_and_bright"):
        taste_of("me")


# ---- clips


def clips(scenes: list[Scene], moves: list[str], frames: int = 4) -> Tensor:
    looks = [random_look(Random(at), TEXTURES[at % 3]) for at in range(len(scenes))]
    drawn = [render_clip(*each, frames) for each in zip(scenes, moves, looks, strict=True)]
    return torch.from_numpy(np.stack(drawn))


@pytest.fixture(scope="module")
def right_clips() -> tuple[Tensor, list[str]]:
    scenes = [scene for scene in ALL for _ in MOVES]
    moves = list(MOVES) * len(ALL)
    return clips(scenes, moves), [clip_prompt(*each) for each in zip(scenes, moves, strict=True)]


def test_rendered_clips_are_right(right_clips: tuple[Tensor, list[str]]) -> None:
    found = clip_scores(*right_clips)
    assert set(found) == {"visual", "motion", "text"}
    assert found["visual"].min() > 0.9
    assert found["motion"].min() > 0.85
    assert (found["text"] == 1).all()
    prompts = [clip_prompt(scene, move) for scene, move in zip(ALL[:4], MOVES, strict=True)]
    longer = clip_scores(clips(list(ALL[:4]), list(MOVES), 7), prompts)
    assert longer["motion"].min() > 0.85


def test_motion_the_wrong_way(right_clips: tuple[Tensor, list[str]]) -> None:
    some, prompts = right_clips[0][::5], right_clips[1][::5]
    across = [prompt.rsplit(" ", 1)[0] for prompt in prompts]
    turned = {"left": "up", "right": "down", "up": "left", "down": "right"}
    across = [f"{words} {turned[prompt.split()[-1]]}" for words, prompt in zip(across, prompts, strict=True)]
    for wrong in (
        clip_scores(some.flip(1), prompts),  # reversed
        clip_scores(some, across),
        clip_scores(some[:, 1:2].expand_as(some), prompts),  # still
        clip_scores(some[:, [2, 0, 3, 1]], prompts),  # shuffled
        clip_scores(some[:, [0, 0, 0, 3]], prompts),  # in one leap
    ):
        assert wrong["motion"].max() < 0.1
        assert wrong["visual"].min() > 0.9
        assert (wrong["text"] == 1).all()
    half = clip_scores(some[:, [0, 1, 1, 2]], prompts)["motion"]
    assert half.min() > 0.1
    assert half.max() < 0.7


def test_text_of_clips_is_shape_and_colour(right_clips: tuple[Tensor, list[str]]) -> None:
    some, prompts = right_clips[0][:48], right_clips[1][:48]
    assert prompts[0] == "a red circle moving left"
    for shape, colour, score in (("square", "red", 0.5), ("circle", "blue", 0.5), ("triangle", "blue", 0.0)):
        other = [clip_prompt(Scene(shape, colour, "top"), MOVES[at % 4]) for at in range(20)]
        assert (clip_scores(some[:20], other)["text"] == score).all()
    mixed = torch.cat([some[:20, :2], some[20:40, 2:]], 1)  # green from the middle on
    assert (clip_scores(mixed, prompts[:20])["text"] == 0.75).all()


def test_noise_is_no_clip() -> None:
    noise = torch.rand(48, 4, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    prompts = [clip_prompt(scene, move) for scene in ALL[::5] for move in MOVES]
    for clip in (noise, torch.full_like(noise, -0.5)):
        assert all(score.max() < 0.1 for score in clip_scores(clip, prompts).values())


@pytest.mark.parametrize(
    ("shape", "prompts", "words"),
    [
        ((1, 3, 16, 16), ["a red circle moving left"], r"shape \(1, 3, 16, 16\); expected \[N, F, 3, H, H\]"),
        ((1, 1, 3, 16, 16), ["a red circle moving left"], "at least 2 frames"),
        ((2, 4, 3, 16, 16), ["a red circle moving left"], "1 prompts for 2 images"),
        ((1, 4, 3, 16, 16), [PROMPT], "describes no clip"),
    ],
)
def test_clips_that_are_refused(shape: tuple[int, ...], prompts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clip_scores(torch.zeros(shape), prompts)
