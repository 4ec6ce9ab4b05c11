"""Extrapolation of weights beyond the newer of two models."""

from pathlib import Path

import torch

from prl.config import ModelSource
from prl.models.loading import load_causal_lm, load_tokenizer, save_model
from prl.system.outputs import writing_folder


@torch.no_grad()
def extrapolate(newer: Path | str, older: Path | str, alpha: float, folder: Path) -> None:
    """Write the model with the weights newer + alpha (newer - older), weight by weight in float32.

    For logits that are linear in the weights it is the policy newer (newer / older)^alpha, normalised: the step of
    accelerated preference optimisation after each round (2410.06293); the paper's own form of it is not verified.
    Adapters are merged first: the product of extrapolated factors is another one.

    Args:
        newer: folder of a causal language model.
        older: folder of one with the same weights' names and shapes.
        alpha: how far to go beyond the newer; 0 writes the newer model.
        folder: to write.

    Raises:
        ValueError: when the two models differ in the names or shapes of their weights.
    """
    model, before = (load_causal_lm(ModelSource(path=str(path))) for path in (newer, older))
    old = before.state_dict()
    found = model.state_dict()
    if wrong := [name for name, weight in found.items() if name not in old or old[name].shape != weight.shape]:
        raise ValueError(f"{newer} and {older} are no two versions of one model: they differ in {wrong[0]}")
    seen: set[int] = set()
    for name, weight in found.items():
        if weight.is_floating_point() and weight.data_ptr() not in seen:  # tied weights are one tensor
            weight += alpha * (weight - old[name])
            seen.add(weight.data_ptr())
    with writing_folder(folder) as partial:
        save_model(model, load_tokenizer(ModelSource(path=str(newer))), partial)
