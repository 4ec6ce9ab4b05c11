"""Data files of the image world: rows as JSONL beside the pictures in .npy files, from a seed.

Every function writes ``<kind>.<split>.jsonl`` into a folder, and the pictures, where there are some, into
``<kind>.<split>.npy``; rows name a picture as ``<kind>.<split>.npy#<row>``. Equal seeds give equal bytes, and every
file has random numbers of its own. No prompt is held out: train and validation share the 60 prompts, or the 48 of
clips, but no pictures.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from prl.quickstart.images.clips import MOVES, clip_prompt, render_clip
from prl.quickstart.images.files import from_uint8, reference, to_uint8, write_arrays
from prl.quickstart.images.scenes import ALL, ATTRIBUTES, COLOURS, SHAPES, Scene, corrupt, random_look, render
from prl.quickstart.images.tastes import TASTES
from prl.system.outputs import write_text

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
SIDES = ("visual", "motion", "text")
"""Sides of a clip, each of which may be flawed."""
FLAW_RATE = 0.4
FADED = 0.65
"""Contrast that is left of a clip whose look is flawed."""


def write_captioned(folder: Path, split: Split, count: int, seed: int, wrong: float = 0.3) -> Path:
    """Write pictures with captions: rows of `prompt` and `image`.

    Args:
        folder: written into.
        split: part of the file names and of the seed.
        count: rows.
        seed: equal seeds give equal files.
        wrong: share of captions that are wrong in one attribute, as captions of a web corpus are. A model that learns
            from them draws what is said only most of the time, which leaves room for alignment.

    Returns:
        Path of the rows.

    Raises:
        ValueError: for an unknown split, a count below 1, or a share outside 0 to 1.
    """
    generator = _generator("captioned", split, count, seed, wrong=wrong)
    pictures, rows = [], []
    for index in range(count):
        scene = generator.choice(ALL)
        shown = corrupt(scene, generator) if generator.random() < wrong else scene
        pictures.append(_picture(shown, generator))
        rows.append({"prompt": scene.prompt, "image": reference(f"captioned.{split}", index)})
    return _write(folder, f"captioned.{split}", rows, pictures)


def write_pairs(folder: Path, split: Split, count: int, seed: int, flip: float = 0.0) -> Path:
    """Write pairs of a right picture and one with a wrong attribute: rows of `prompt`, `chosen` and `rejected`.

    `flip` is the share of pairs with exchanged labels. Other arguments, result and errors are those of
    `write_captioned`.
    """
    generator = _generator("pairs", split, count, seed, flip=flip)
    pictures, rows = [], []
    for index in range(count):
        scene = generator.choice(ALL)
        pictures += [_picture(scene, generator), _picture(corrupt(scene, generator), generator)]
        names = [reference(f"pairs.{split}", 2 * index + at) for at in range(2)]
        if generator.random() < flip:
            names.reverse()
        rows.append({"prompt": scene.prompt, "chosen": names[0], "rejected": names[1]})
    return _write(folder, f"pairs.{split}", rows, pictures)


def write_lists(folder: Path, split: Split, count: int, seed: int, k: int = 4) -> Path:
    """Write lists of pictures of one prompt: rows of `prompt`, `images` and `scores`.

    Of four pictures, one is right and the others are wrong in one, two and three attributes; more pictures go on in
    the same way. Scores are those of three reward models, of shape, colour and place: a list of three for each image.

    Args:
        folder: written into.
        split: part of the file names and of the seed.
        count: rows.
        seed: equal seeds give equal files.
        k: pictures of a list.

    Returns:
        Path of the rows.

    Raises:
        ValueError: for an unknown split, a count below 1, or lists of less than two pictures.
    """
    if k < 2:
        raise ValueError(f"k is {k}; expected at least 2 pictures a list")
    generator = _generator("lists", split, count, seed)
    pictures: list[np.ndarray] = []
    rows = []
    for _ in range(count):
        scene = generator.choice(ALL)
        names, scores = [], []
        for mistakes in generator.sample([at % 4 for at in range(k)], k):
            shown = corrupt(scene, generator, mistakes)
            names.append(reference(f"lists.{split}", len(pictures)))
            scores.append([float(getattr(shown, name) == getattr(scene, name)) for name in ATTRIBUTES])
            pictures.append(_picture(shown, generator))
        rows.append({"prompt": scene.prompt, "images": names, "scores": scores})
    return _write(folder, f"lists.{split}", rows, pictures)


def write_prompts(folder: Path, split: Split, prompts: Sequence[str]) -> Path:
    """Write prompts of pictures or of clips: rows of `prompt`.

    Raises:
        ValueError: for an unknown split, or no prompts.
    """
    _check_split(split)
    if not prompts:
        raise ValueError("there are no prompts; expected at least one")
    return _write(folder, f"prompts.{split}", [{"prompt": prompt} for prompt in prompts])


def write_user_pairs(folder: Path, split: Split, count: int, seed: int) -> Path:
    """Write pairs of right pictures of which a user likes one better: rows of `prompt`, `chosen`, `rejected`, `user`.

    Users are those of TASTES, each equally often. Arguments, result and errors are those of `write_captioned`.
    """
    generator = _generator("user_pairs", split, count, seed)
    pictures: list[np.ndarray] = []
    rows = []
    for index in range(count):
        scene, user = generator.choice(ALL), generator.choice(list(TASTES))
        first, second = 0.0, 0.0
        while first == second:  # no choice between two equals
            both = np.stack([_picture(scene, generator) for _ in range(2)])
            first, second = TASTES[user].score(from_uint8(both)).tolist()
        names = [reference(f"user_pairs.{split}", 2 * index + at) for at in range(2)]
        if second > first:
            names.reverse()
        pictures.extend(both)
        rows.append({"prompt": scene.prompt, "chosen": names[0], "rejected": names[1], "user": user})
    return _write(folder, f"user_pairs.{split}", rows, pictures)


def write_clips(folder: Path, split: Split, count: int, seed: int, frames: int = 4) -> Path:
    """Write pairs of clips: rows of `prompt`, `chosen`, `rejected`, and a label for each of the three sides.

    A clip may have a flaw on each side: it is faded, it moves in another direction or not at all, or it shows another
    colour or shape. The clip with fewer flaws is chosen. `visual_preference`, `motion_preference` and `text_preference`
    are the probability that the chosen clip is the better one on a side: 1, 0, or 1/2 where both are alike.

    Args:
        folder: written into.
        split: part of the file names and of the seed.
        count: rows.
        seed: equal seeds give equal files.
        frames: frames of a clip.

    Returns:
        Path of the rows.

    Raises:
        ValueError: for an unknown split, a count below 1, or less than two frames.
    """
    generator = _generator("clips", split, count, seed)
    clips, rows = [], []
    for index in range(count):
        scene, move = generator.choice(ALL), generator.choice(MOVES)
        chosen, rejected = _two_flawed(generator)
        clips += [_clip(scene, move, flaws, generator, frames) for flaws in (chosen, rejected)]
        names = [reference(f"clips.{split}", 2 * index + at) for at in range(2)]
        better = {f"{side}_preference": (1 + (side in rejected) - (side in chosen)) / 2 for side in SIDES}
        rows.append({"prompt": clip_prompt(scene, move), "chosen": names[0], "rejected": names[1], **better})
    return _write(folder, f"clips.{split}", rows, clips)


def write_captioned_clips(
    folder: Path, split: Split, count: int, seed: int, frames: int = 4, flaw_rate: float = 0.3
) -> Path:
    """Write clips with captions, of which each has a flaw on a side at a rate: rows of `prompt` and `image`.

    Other arguments, result and errors are those of `write_clips`.
    """
    generator = _generator("captioned_clips", split, count, seed, flaw_rate=flaw_rate)
    clips, rows = [], []
    for index in range(count):
        scene, move = generator.choice(ALL), generator.choice(MOVES)
        flaws = {side for side in SIDES if generator.random() < flaw_rate}
        clips.append(_clip(scene, move, flaws, generator, frames))
        rows.append({"prompt": clip_prompt(scene, move), "image": reference(f"captioned_clips.{split}", index)})
    return _write(folder, f"captioned_clips.{split}", rows, clips)


# ---- pictures and clips


def _picture(scene: Scene, generator: Random) -> np.ndarray:
    return to_uint8(render(scene, random_look(generator)))


def _two_flawed(generator: Random) -> tuple[set[str], set[str]]:
    """Draw the flawed sides of two clips, the one with fewer first."""
    while True:
        first, second = ({side for side in SIDES if generator.random() < FLAW_RATE} for _ in range(2))
        if len(first) != len(second):
            return (first, second) if len(first) < len(second) else (second, first)


def _clip(scene: Scene, move: str, flaws: set[str], generator: Random, frames: int) -> np.ndarray:
    look = random_look(generator)
    if "text" in flaws:
        name, values = generator.choice((("shape", SHAPES), ("colour", COLOURS)))
        scene = replace(scene, **{name: generator.choice([each for each in values if each != getattr(scene, name)])})
    is_still = False
    if "motion" in flaws:
        move = generator.choice([each for each in MOVES if each != move])
        is_still = generator.random() < 0.25
    clip = render_clip(scene, move, look, frames)
    if is_still:
        clip = np.repeat(clip[frames // 2 : frames // 2 + 1], frames, axis=0)
    if "visual" in flaws:
        clip = look.background + FADED * (clip - look.background)
    return to_uint8(clip)


# ---- files


def _generator(kind: str, split: Split, count: int, seed: int, **shares: float) -> Random:
    """Check what all files have in common, and return the random numbers of one."""
    _check_split(split)
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; expected a share from 0 to 1")
    return Random(f"{seed}/{kind}.{split}")


def _check_split(split: Split) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")


def _write(folder: Path, name: str, rows: Sequence[dict[str, Any]], pictures: Sequence[np.ndarray] = ()) -> Path:
    """Write pictures before the rows that name them."""
    if pictures:
        write_arrays(folder, name, np.stack(pictures))
    path = folder / f"{name}.jsonl"
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path
