"""Scenes of one figure on a grey ground: what the prompt says, what it leaves open, and how a scene is drawn.

A prompt names a colour, a shape and a place, ``a red circle on the left``. Everything else is the look: size, ground,
a small shift and a texture. Lengths are in pixels of a picture of 16 x 16, so that a larger picture shows the same
scene; x goes right and y goes down, both from the upper left corner. Brightness is in [-1, 1].
"""

import math
from dataclasses import dataclass, replace
from itertools import product
from random import Random

import numpy as np

SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow")
PLACES = ("left", "right", "top", "bottom", "middle")
TEXTURES = ("plain", "ring", "stripes")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "place": PLACES}
"""What a prompt says of a scene, and the values of each."""

SIDE = 16.0
REACH = 3.4
"""Distance of the places from the middle of the picture."""
_OFFSETS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}
CENTRES = {place: (SIDE / 2 + REACH * x, SIDE / 2 + REACH * y) for place, (x, y) in _OFFSETS.items()}
"""x and y of a figure without shift."""
RGB = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "yellow": (1, 1, -1)}

SIZES = (2.6, 3.8)
BACKGROUNDS = (-1.0, -0.3)
LARGEST_SHIFT = 0.5
SQUARE, TRIANGLE = math.sqrt(math.pi) / 2, 1.25
"""Half the side of a square, and the distance of a triangle's corners from its centre of mass, per radius.

A square has the area of the circle; a triangle is a little smaller, so that it fits at the edge of a picture.
"""
LIGHT, CORE, STRIPE = 0.8, 0.55, 1.5
"""Share of white in the light parts of a texture, radius of a ring's core per radius, and breadth of a stripe."""
SMALLEST, SAMPLES = 12, 4
"""Least pixels a side of a picture, and sub-samples along each side of a pixel."""

_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}


def check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among the known ones. Raises ValueError."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Scene:
    """What a prompt says: one figure, its colour and its place.

    Raises:
        ValueError: for an unknown shape, colour or place.
    """

    shape: str
    colour: str
    place: str

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            check_one_of(name, getattr(self, name), values)

    @property
    def prompt(self) -> str:
        """Say the scene in words."""
        return f"a {self.colour} {self.shape} {_PHRASES[self.place]}"


ALL = tuple(Scene(*values) for values in product(SHAPES, COLOURS, PLACES))
_BY_PROMPT = {scene.prompt: scene for scene in ALL}
WORDS = tuple(sorted({word for prompt in _BY_PROMPT for word in prompt.split()}))
"""Every word of the prompts."""


def parse_prompt(text: str) -> Scene:
    """Return the scene that a prompt describes.

    Raises:
        ValueError: for anything but the prompt of a scene.
    """
    if text not in _BY_PROMPT:
        raise ValueError(
            f"prompt {text!r} describes no scene; expected a text as {ALL[0].prompt!r}, with a colour of "
            f"{', '.join(COLOURS)}, a shape of {', '.join(SHAPES)}, and {', '.join(_PHRASES.values())}"
        )
    return _BY_PROMPT[text]


def corrupt(scene: Scene, generator: Random, count: int = 1) -> Scene:
    """Give `count` different attributes of a scene other values.

    Raises:
        ValueError: for a count outside 0 to 3.
    """
    if not 0 <= count <= len(ATTRIBUTES):
        raise ValueError(f"count is {count}; a scene has 0 to {len(ATTRIBUTES)} attributes to change")
    changes = {}
    for name in generator.sample(list(ATTRIBUTES), count):
        changes[name] = generator.choice([value for value in ATTRIBUTES[name] if value != getattr(scene, name)])
    return replace(scene, **changes)


@dataclass(frozen=True)
class Look:
    """What a prompt leaves open.

    Raises:
        ValueError: for a value outside the range that the gold check promises to read.
    """

    size: float = 3.2
    """Radius, from 2.6 to 3.8."""
    background: float = -0.65
    """Brightness of the ground, from -1 to -0.3."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Way of the figure from its place along x and y, at most 0.5 each."""
    texture: str = "plain"
    """A ring has a light core, stripes are light; a subject of its own is a scene with one texture."""

    def __post_init__(self) -> None:
        for name, value, (low, high) in (
            ("size", self.size, SIZES),
            ("background", self.background, BACKGROUNDS),
            ("shift along x", self.shift[0], (-LARGEST_SHIFT, LARGEST_SHIFT)),
            ("shift along y", self.shift[1], (-LARGEST_SHIFT, LARGEST_SHIFT)),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; expected {low} to {high}")
        check_one_of("texture", self.texture, TEXTURES)


def random_look(generator: Random, texture: str = "plain") -> Look:
    """Draw size, ground and shift, each from its whole range."""
    size, background = generator.uniform(*SIZES), generator.uniform(*BACKGROUNDS)
    x, y = (generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT) for _ in "xy")
    return Look(size, background, (x, y), texture)


# ---- drawing


def inside(shape: str, x: np.ndarray, y: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Tell which points lie in a figure whose centre of mass is at 0. All arguments broadcast."""
    if shape == "circle":
        return x * x + y * y <= radius * radius
    if shape == "square":
        return (abs(x) <= SQUARE * radius) & (abs(y) <= SQUARE * radius)
    tip = TRIANGLE * radius
    return (y <= tip / 2) & (abs(x) * math.sqrt(3) <= y + tip)


def sample_points(x: np.ndarray, y: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Place the sub-samples of a picture around centres x, y [N].

    Returns:
        Their distances from the centres along x [N, 1, 4 pixels] and along y [N, 4 pixels, 1].
    """
    line = ((np.arange(SAMPLES * pixels) + 0.5) * (SIDE / (SAMPLES * pixels))).astype(x.dtype)
    return line - x[:, None, None], line[:, None] - y[:, None, None]


def pixel_shares(samples: np.ndarray) -> np.ndarray:
    """Compute the share of each pixel's sub-samples that are true: [N, pixels, pixels] of [N, 4 pixels, 4 pixels]."""
    count, side = len(samples), samples.shape[-1] // SAMPLES
    rows = samples.reshape(count, side, SAMPLES, side * SAMPLES).sum(2, dtype=np.float32)
    return rows.reshape(count, side, side, SAMPLES).sum(3) / SAMPLES**2


def _is_light(shape: str, look: Look, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which points of a figure its texture lightens; broadcasts with the points."""
    if look.texture == "ring":
        return inside(shape, x, y, CORE * look.size)
    if look.texture == "stripes":
        return np.floor(y / STRIPE + 0.5) % 2 == 1
    return np.array(False)


def draw(scene: Scene, look: Look, centre: tuple[float, float], pixels: int) -> np.ndarray:
    """Draw a scene's figure at any centre x, y: [3, pixels, pixels], float32 in [-1, 1].

    Raises:
        ValueError: for a picture of less than 12 pixels a side.
    """
    if pixels < SMALLEST:
        raise ValueError(f"pixels is {pixels}; expected at least {SMALLEST} a side, below which shapes look alike")
    x, y = sample_points(np.array([centre[0]]), np.array([centre[1]]), pixels)
    is_figure = inside(scene.shape, x, y, look.size)
    figure = pixel_shares(is_figure)
    light = pixel_shares(is_figure & _is_light(scene.shape, look, x, y))
    colour = np.array(RGB[scene.colour], np.float32)[:, None, None]
    lightened = colour + LIGHT * (1 - colour)
    return (look.background * (1 - figure) + colour * (figure - light) + lightened * light).astype(np.float32)


def render(scene: Scene, look: Look, pixels: int = 16) -> np.ndarray:
    """Render a scene: [3, pixels, pixels], float32 in [-1, 1], equal for equal arguments.

    Raises:
        ValueError: for a picture of less than 12 pixels a side.
    """
    x, y = CENTRES[scene.place]
    return draw(scene, look, (x + look.shift[0], y + look.shift[1]), pixels)
