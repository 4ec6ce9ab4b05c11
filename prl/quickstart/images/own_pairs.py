"""Pictures that a model made, and pairs of them: the best and the worst of several for each prompt."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prl.config import ModelSource
from prl.data.images import ImageFiles, as_tensor
from prl.diffusion.denoisers import load_denoiser
from prl.diffusion.denoisers.base import USERS
from prl.diffusion.draws import normal
from prl.diffusion.sampling import ImageSampling, Prompted, sample_latents
from prl.diffusion.user_attention import load_user_attention
from prl.objectives.preference.rank_dpo import win_shares
from prl.quickstart.images.data import Split, write_pairs
from prl.quickstart.images.files import reference, to_uint8, write_arrays
from prl.quickstart.images.gold import attributes, gold
from prl.quickstart.images.scenes import ALL, random_look, render
from prl.quickstart.images.tastes import taste_of
from prl.system.outputs import write_text

PER_PROMPT = 4
"""Pictures of which the best and the worst make a pair."""
USER_TASTES, USERS_OF_TASTE = ("large", "small", "bright"), 48
"""Tastes of users, without the mixed one, and users of each."""


def make_pictures(
    model: Path,
    prompts: Sequence[str],
    seed: int,
    name: str,
    sampling: ImageSampling,
    prompt_tokens: int = 0,
    clip: Sequence[int] | None = None,
    users: Tensor | None = None,
) -> Tensor:
    """Make a picture or clip for each prompt: [N, 3, ...] from -1 to 1. Equal seeds and names give equal noise.

    Args:
        model: folder of the pipeline.
        prompts: N texts.
        seed: seed of the noise.
        name: what the pictures are for.
        sampling: how they are made.
        prompt_tokens: as of `load_denoiser`.
        clip: frames, height and width of clips; None for pictures.
        users: [N, E, D] tokens of those whom they are made for, by a model that knows users; nobody when None.
    """
    denoiser, network = load_denoiser(ModelSource(path=str(model)), prompt_tokens, clip)
    if users is not None:
        load_user_attention(denoiser, network, model)
    noise = normal([(seed, name, number) for number in range(len(prompts))], denoiser.latent_shape)
    made = []
    for rows in torch.arange(len(prompts)).split(240):
        texts, device = [prompts[row] for row in rows.tolist()], torch.device("cpu")
        null, condition = denoiser.encode([""] * len(texts), device), denoiser.encode(texts, device)
        if users is not None:
            condition, null = condition | {USERS: users[rows]}, null | {USERS: torch.zeros_like(users[rows])}
        predict = Prompted(denoiser, network.eval(), condition, null, sampling.guidance)
        made.append(denoiser.to_images(sample_latents(denoiser.process, predict, noise[rows], sampling.steps)))
    return torch.cat(made)


def write_own_pairs(model: Path, folder: Path, split: Split, rounds: int, seed: int) -> Path:
    """Write pairs of a model's own pictures: the best and the worst of four by the gold check.

    Rows are of prompt, chosen and rejected, and for methods on lists `responses`, all four pictures, and `rewards`, the
    share of comparisons that each wins by shape, colour, place and clarity. Beside them `scored` rows have each picture
    with its `reward`, the gold check.

    Args:
        model: folder of the pipeline.
        folder: written into.
        split: part of the file names and of the noise.
        rounds: pairs of each prompt; those of equal quality are left out.
        seed: seed of the noise.
    """
    prompts = [scene.prompt for scene in ALL for _ in range(rounds * PER_PROMPT)]
    name = f"pairs.{split}"
    images = make_pictures(model, prompts, seed, name, ImageSampling(steps=10))
    write_arrays(folder, name, to_uint8(images))
    parts = torch.stack([part.double() for part in attributes(images, prompts).values()], 1)
    rows, quality = [], gold(images, prompts)
    for first in range(0, len(prompts), PER_PROMPT):
        of = slice(first, first + PER_PROMPT)
        pictures = [reference(name, number) for number in range(of.start, of.stop)]
        best, worst = int(quality[of].argmax()), int(quality[of].argmin())
        if quality[of][best] > quality[of][worst]:
            row: dict[str, Any] = {"prompt": prompts[first], "chosen": pictures[best], "rejected": pictures[worst]}
            rows.append({**row, "responses": pictures, "rewards": win_shares(parts[of]).tolist()})
    scored = [
        {"prompt": prompt, "image": reference(name, number), "reward": float(quality[number])}
        for number, prompt in enumerate(prompts)
    ]
    _write_rows(folder / f"scored.{split}.jsonl", scored)
    return _write_rows(folder / f"{name}.jsonl", rows)


def write_own_user_pairs(
    pairs: Path, path: Path, split: Split, tastes: Sequence[str] = USER_TASTES, users: int = USERS_OF_TASTE
) -> Path:
    """Write what users say of the pictures of `write_own_pairs`: rows of prompt, chosen, rejected and user.

    They compare the two best of four pictures by the gold check, so that tastes are not for or against right pictures.

    Args:
        pairs: folder of the pictures.
        path: file to write.
        split: of the pictures.
        tastes: names of tastes.
        users: users of each taste, named as `large_0`, who take turns.
    """
    rows: list[dict[str, Any]] = []
    files, place = ImageFiles(pairs), os.path.relpath(pairs.resolve(), path.parent.resolve())
    for number, row in enumerate(map(json.loads, (pairs / f"pairs.{split}.jsonl").read_text().splitlines())):
        images = torch.stack([as_tensor(files.read(name, "responses")) for name in row["responses"]])
        best = gold(images, [row["prompt"]] * len(images)).argsort(descending=True, stable=True)[:2]
        names = [os.path.normpath(os.path.join(place, row["responses"][at])) for at in best.tolist()]
        for taste in tastes:
            liked, user = taste_of(taste).score(images[best]), f"{taste}_{number % users}"
            if float(liked[0]) != float(liked[1]):
                chosen, rejected = names if liked[0] > liked[1] else names[::-1]
                rows.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "user": user})
    return _write_rows(path, rows)


def write_judge_pairs(folder: Path, count: int, seed: int) -> Path:
    """Write the training pairs of the judge: those of the model, and rendered ones in which one thing is wrong.

    Pictures of the model are few, and seldom right: without rendered ones the judge would not know what right is.
    """
    rendered = write_pairs(folder / "rendered", "train", count, seed)
    rows = [json.loads(line) for line in (folder / "pairs.train.jsonl").read_text().splitlines()]
    for row in map(json.loads, rendered.read_text().splitlines()):
        rows.append({**row, **{side: f"rendered/{row[side]}" for side in ("chosen", "rejected")}})
    return _write_rows(folder / "judge.train.jsonl", rows)


def write_references(folder: Path, count: int, seed: int) -> Path:
    """Write `count` right pictures for every prompt, rows of prompt and image."""
    draw, rows = Random(seed), []
    pictures: list[np.ndarray] = []
    for scene in ALL:
        for _ in range(count):
            rows.append({"prompt": scene.prompt, "image": reference("references", len(pictures))})
            pictures.append(render(scene, random_look(draw)))
    write_arrays(folder, "references", to_uint8(np.stack(pictures)))
    return _write_rows(folder / "references.jsonl", rows)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def side_by_side(pictures: dict[str, np.ndarray], prompts: Sequence[str], path: Path) -> None:
    """Draw the pictures of several models for the same prompts and noise, one model a row.

    Args:
        pictures: [N, H, W, 3] uint8 of each model, by its name.
        prompts: N texts, which head the columns.
        path: .png file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * len(prompts) + 1, 1.25 * len(pictures) + 0.6), dpi=110)
    axes = figure.subplots(len(pictures), len(prompts), squeeze=False)
    for row, (name, made) in zip(axes, pictures.items(), strict=True):
        for axis, picture in zip(row, made, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=8)
    for axis, prompt in zip(axes[0], prompts, strict=True):
        axis.set_title("\n".join(prompt.removeprefix("a ").split(" ", 2)), fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
