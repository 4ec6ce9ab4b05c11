"""The truth about a picture: whether it shows what its prompt says, by code and without learning.

A picture is read in the way it was drawn. The ground is the median of the border. The strength of a pixel is its
difference from the ground, as a share of the contrast that a figure has; in a rendered picture it is the share of the
pixel that the figure covers. The strengths' centre of mass gives the place, pixels vote for the colour by their hues,
and the shape is that of the most similar template, drawn at the centre in several sizes. How much of the strengths the
best template overlaps is the picture's clarity, so that noise, blots and empty pictures are worth nothing whatever
they suggest.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from prl.quickstart.images.scenes import (
    ATTRIBUTES,
    CENTRES,
    COLOURS,
    PLACES,
    RGB,
    SHAPES,
    SIDE,
    inside,
    parse_prompt,
    pixel_shares,
    sample_points,
)

TEMPLATE_SIZES = (2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6, 3.8, 4.0)
UNCLEAR, CLEAR = 0.5, 0.9
"""Overlaps (intersection over union) of clarity 0 and 1; it is linear between them."""
LEAST_CONTRAST = 1.0
"""A figure on a ground brighter than 0 has less contrast than this, and its picture is less clear."""
FAINT = 0.15
"""Share of the contrast that is overlooked, in pictures and templates alike, as the eye overlooks slight noise."""
LEAST_SHARE = 2 / 3
"""Share of a figure that its colour has at least."""
LEAST_HUE = 0.4
"""Mean distance from grey of a figure that has a colour; a pure one has about 1.6."""
CHUNK = 64
"""Pictures that are read at a time, which bounds memory."""

_HUES = np.array([RGB[colour] for colour in COLOURS], np.float32)
_HUES -= _HUES.mean(1, keepdims=True)
_HUES /= np.linalg.norm(_HUES, axis=1, keepdims=True)
"""Directions away from grey [4, 3]."""


@dataclass(frozen=True)
class Reading:
    """What pictures show, whatever their prompts say. All are float64 or int64."""

    shape: Tensor
    """Index in SHAPES: [N]."""
    colour: Tensor
    """Index in COLOURS, or -1 where no colour has two thirds of the figure: [N]."""
    place: Tensor
    """Index in PLACES: [N]."""
    clarity: Tensor
    """In [0, 1]; where it is 0 the rest means nothing: [N]."""
    centre: Tensor
    """x and y of the centre of mass, in pixels of a picture of 16 x 16; the middle where nothing is seen: [N, 2]."""


def background(images: Tensor) -> Tensor:
    """Compute the brightness of the ground: [N], float64, of images [N, 3, H, H] in [-1, 1]."""
    return _returned(_background(_checked(images)), images)


def figure_share(images: Tensor) -> Tensor:
    """Compute the share of each picture that its figure covers: [N], float64, of images [N, 3, H, H] in [-1, 1]."""
    return _returned(_strength(_checked(images)).mean((1, 2)), images)


def read(images: Tensor) -> Reading:
    """Read what pictures show.

    Args:
        images: [N, 3, H, H], floating point in [-1, 1]; anything outside is cut off.

    Raises:
        ValueError: for another shape, or numbers that are not finite.
    """
    pictures = _checked(images)
    chunks = [_read_chunk(pictures[start : start + CHUNK]) for start in range(0, max(len(pictures), 1), CHUNK)]
    found = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return Reading(**{each.name: _returned(found[each.name], images) for each in fields(Reading)})


def attributes(images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    """Check each attribute that the prompts name.

    Args:
        images: [N, 3, H, H], floating point in [-1, 1].
        prompts: one of each picture.

    Returns:
        `shape`, `colour` and `place`, each 1 where the picture shows what the prompt says and 0 elsewhere, also where
        nothing clear is seen; and `clarity` in [0, 1]. All are [N], float64.

    Raises:
        ValueError: for images of another shape, a number that is not finite, or a prompt that describes no scene.
    """
    check_prompts(images, prompts)
    scenes = [parse_prompt(prompt) for prompt in prompts]
    found = read(images)
    scores = {
        name: agreement(getattr(found, name), [values.index(getattr(scene, name)) for scene in scenes], found.clarity)
        for name, values in ATTRIBUTES.items()
    }
    return scores | {"clarity": found.clarity}


def gold(images: Tensor, prompts: list[str]) -> Tensor:
    """Compute how well pictures show their prompts: the mean of the three attributes, times clarity. [N], float64.

    Arguments and errors are those of `attributes`.
    """
    scores = attributes(images, prompts)
    return (scores["shape"] + scores["colour"] + scores["place"]) / 3 * scores["clarity"]


def agreement(shown: Tensor, said: list[int], clarity: Tensor) -> Tensor:
    """Return 1 where a clear picture shows the value that is said, and 0 elsewhere: [N], float64."""
    wanted = torch.tensor(said, dtype=shown.dtype, device=shown.device)
    return ((shown == wanted) & (clarity > 0)).double()


def check_prompts(images: Tensor, prompts: list[str]) -> None:
    """Refuse a number of prompts that is not the number of images or clips. Raises ValueError."""
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts for {len(images)} images; expected one of each")


# ---- reading


def _checked(images: Tensor) -> np.ndarray:
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected [N, 3, H, H]")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; expected floating-point numbers in [-1, 1]")
    finite = images.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(f"image {int((~finite).nonzero()[0])} holds numbers that are not finite")
    return images.detach().cpu().float().clamp(-1, 1).numpy()


def _returned(found: np.ndarray, images: Tensor) -> Tensor:
    is_index = np.issubdtype(found.dtype, np.integer)
    return torch.from_numpy(found.astype(np.int64 if is_index else np.float64)).to(images.device)


def _background(pictures: np.ndarray) -> np.ndarray:
    is_border = np.ones(pictures.shape[2:], bool)
    is_border[1:-1, 1:-1] = False
    border = pictures[:, :, is_border]
    return np.median(border.reshape(len(border), 3 * border.shape[2]), axis=1)


def _strength(pictures: np.ndarray) -> np.ndarray:
    """Compute each pixel's difference from the ground per contrast, in [0, 1]: [N, H, H].

    Every colour, light or not, has a channel at 1, so that a figure's inner pixels have strength 1.
    """
    ground = _background(pictures)[:, None, None]
    difference = abs(pictures - ground[:, None]).max(1)
    return (difference / np.maximum(1 - ground, LEAST_CONTRAST)).clip(0, 1)


def _without_faint(shares: np.ndarray) -> np.ndarray:
    return (shares - FAINT).clip(0) / (1 - FAINT)


def _read_chunk(pictures: np.ndarray) -> dict[str, np.ndarray]:
    strength = _without_faint(_strength(pictures))
    centre = _centres(strength)
    likeness, overlap = _match(strength, centre)
    places = np.array([CENTRES[place] for place in PLACES], np.float32)
    return {
        "shape": likeness.argmax(1),
        "colour": _colours(pictures, strength),
        "place": np.square(centre[:, None] - places).sum(2).argmin(1),
        "clarity": ((overlap - UNCLEAR) / (CLEAR - UNCLEAR)).clip(0, 1),
        "centre": centre,
    }


def _centres(strength: np.ndarray) -> np.ndarray:
    side = strength.shape[-1]
    line = ((np.arange(side) + 0.5) * (SIDE / side)).astype(np.float32)
    total = strength.sum((1, 2))
    x, y = (strength.sum(1) * line).sum(1), (strength.sum(2) * line).sum(1)
    centre = np.stack([x, y], 1) / np.maximum(total, 1e-6)[:, None]
    return np.where(total[:, None] > 0, centre, np.float32(SIDE / 2))


def _match(strength: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare the strengths with templates of every shape and size.

    Returns:
        For each shape the likeness of the most similar template [N, shapes], a cosine, so that a faded figure keeps
        its shape; and the overlap of the best template of all [N], which falls as a figure fades.
    """
    x, y = sample_points(centre[:, 0], centre[:, 1], strength.shape[-1])
    total = strength.sum((1, 2))
    likeness = np.zeros((len(strength), len(SHAPES)), np.float32)
    overlap = np.zeros(len(strength), np.float32)
    for at, shape in enumerate(SHAPES):
        for size in TEMPLATE_SIZES:
            template = _without_faint(pixel_shares(inside(shape, x, y, size)))
            cosine = (strength * template).sum((1, 2)) / np.sqrt(np.square(template).sum((1, 2)))
            likeness[:, at] = np.maximum(likeness[:, at], cosine)
            shared = np.minimum(strength, template).sum((1, 2))
            overlap = np.maximum(overlap, shared / (total + template.sum((1, 2)) - shared))
    return likeness / np.sqrt(np.square(strength).sum((1, 2)) + 1e-12)[:, None], overlap


def _colours(pictures: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Let pixels vote for the hue nearest to theirs, by their strength and distance from grey: indices [N]."""
    hues = np.einsum("kc,nchw->nkhw", _HUES, pictures - pictures.mean(1, keepdims=True))
    nearest, weight = hues.argmax(1), hues.max(1) * strength
    votes = np.stack([(weight * (nearest == at)).sum((1, 2)) for at in range(len(COLOURS))], 1)
    winner, total = votes.argmax(1), votes.sum(1)
    has_colour = (votes.max(1) > LEAST_SHARE * total) & (total > LEAST_HUE * strength.sum((1, 2)))
    return np.where(has_colour, winner, -1)
