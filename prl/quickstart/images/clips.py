"""Clips of a figure that crosses the picture, with a check of each of their three sides.

A prompt says colour, shape and direction, ``a red circle moving left``.
"""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from prl.quickstart.images.gold import agreement, check_prompts, read
from prl.quickstart.images.scenes import (
    CENTRES,
    COLOURS,
    REACH,
    SHAPES,
    SIDE,
    WORDS,
    Look,
    Scene,
    check_one_of,
    draw,
)

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MOVES = tuple(DIRECTIONS)
LEAST_WAY = REACH
"""Way along the said direction from which the motion is whole; a rendered clip goes twice as far."""


def clip_prompt(scene: Scene, move: str) -> str:
    """Say a clip in words; the place of the scene is not said.

    Raises:
        ValueError: for an unknown move.
    """
    check_one_of("move", move, MOVES)
    return f"a {scene.colour} {scene.shape} moving {move}"


_BY_PROMPT = {
    clip_prompt(Scene(shape, colour, "middle"), move): (shape, colour, move)
    for shape, colour, move in product(SHAPES, COLOURS, MOVES)
}
CLIP_PROMPTS = tuple(_BY_PROMPT)
CLIP_WORDS = tuple(sorted({word for prompt in CLIP_PROMPTS for word in prompt.split()} | set(WORDS)))
"""Every word of the prompts of clips and of pictures."""


def parse_clip_prompt(text: str) -> tuple[str, str, str]:
    """Return the shape, the colour and the move that a prompt describes.

    Raises:
        ValueError: for anything but the prompt of a clip.
    """
    if text not in _BY_PROMPT:
        raise ValueError(
            f"prompt {text!r} describes no clip; expected a text as {CLIP_PROMPTS[0]!r}, with a colour of "
            f"{', '.join(COLOURS)}, a shape of {', '.join(SHAPES)}, and a move of {', '.join(MOVES)}"
        )
    return _BY_PROMPT[text]


def render_clip(scene: Scene, move: str, look: Look, frames: int = 4, pixels: int = 16) -> np.ndarray:
    """Render a figure that crosses the picture in even steps: [frames, 3, pixels, pixels], float32 in [-1, 1].

    It goes from one outer place to the opposite one. The place of the scene says on which line: for a move to the left
    or right it is the upper line for `top`, the lower for `bottom`, and the middle one for the other places.

    Raises:
        ValueError: for an unknown move, or less than two frames.
    """
    check_one_of("move", move, MOVES)
    if frames < 2:
        raise ValueError(f"frames is {frames}; expected at least 2")
    direction = DIRECTIONS[move]
    line = [SIDE / 2 if way else place for way, place in zip(direction, CENTRES[scene.place], strict=True)]
    pictures = []
    for share in np.linspace(-1, 1, frames):
        x, y = (
            start + REACH * float(share) * way + shift
            for start, way, shift in zip(line, direction, look.shift, strict=True)
        )
        pictures.append(draw(scene, look, (x, y), pixels))
    return np.stack(pictures)


def clip_scores(clips: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    """Check the three sides of clips.

    Args:
        clips: [N, F, 3, H, H], floating point in [-1, 1].
        prompts: one of each clip.

    Returns:
        Each [N], float64 in [0, 1]: `visual`, the mean clarity of the frames; `motion`, how far and how evenly the
        figure moves in the said direction; `text`, the share of shape and colour that is right over all frames.

    Raises:
        ValueError: for clips of another shape, a number that is not finite, or a prompt that describes no clip.
    """
    if clips.dim() != 5 or clips.shape[1] < 2:
        raise ValueError(f"clips have shape {tuple(clips.shape)}; expected [N, F, 3, H, H] with at least 2 frames")
    check_prompts(clips, prompts)
    said = [parse_clip_prompt(prompt) for prompt in prompts]
    count, frames = clips.shape[:2]
    found = read(clips.flatten(0, 1))
    shapes = [SHAPES.index(shape) for shape, _, _ in said for _ in range(frames)]
    colours = [COLOURS.index(colour) for _, colour, _ in said for _ in range(frames)]
    right = agreement(found.shape, shapes, found.clarity) + agreement(found.colour, colours, found.clarity)
    directions = torch.tensor([DIRECTIONS[move] for _, _, move in said], dtype=torch.float64, device=clips.device)
    return {
        "visual": found.clarity.view(count, frames).mean(1),
        "motion": _motion(found.centre.view(count, frames, 2), directions.view(count, 2)),
        "text": right.view(count, frames).mean(1) / 2,
    }


def _motion(centres: Tensor, directions: Tensor) -> Tensor:
    """Score paths [N, F, 2]: the way along directions [N, 2], times how little the steps differ from an even one."""
    steps = centres.diff(dim=1)
    pace = (steps.mean(1) * directions).sum(1)
    uneven = (steps - (pace[:, None] * directions)[:, None]).norm(dim=2).mean(1)
    far = (pace * steps.shape[1] / LEAST_WAY).clamp(0, 1)
    return far * (1 - uneven / pace.clamp_min(1e-6)).clamp(0, 1)
