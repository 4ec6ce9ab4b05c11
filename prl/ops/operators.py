"""The operators `prl::gae` and `prl::shaped_gae`: schema, checks, shapes without data, and the default implementation.

A compiled implementation for a device takes precedence over the default one where it is loaded (prl/ops/kernels.py).
The results are constants: no gradient flows.
"""

from typing import cast, get_args

import torch
from torch import Tensor

from prl.config import KLEstimator
from prl.ops import reference

_ROWS = "float gamma, float gae_lambda, float? critic_lambda=None, *, Tensor? row_lambda=None, Tensor? offsets=None"
SCHEMAS = {
    "gae": f"(Tensor rewards, Tensor values, Tensor mask, {_ROWS}) -> (Tensor, Tensor)",
    "shaped_gae": "(Tensor logprobs, Tensor ref_logprobs, Tensor scores, Tensor values, Tensor mask, float kl_coef, "
    f"str kl_estimator, {_ROWS}) -> (Tensor, Tensor, Tensor)",
}
FLOATS = (torch.float32, torch.bfloat16)

LIBRARY = torch.library.Library("prl", "DEF")
for _name, _schema in SCHEMAS.items():
    LIBRARY.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    # Registered below autograd, so the outputs are constants whatever the inputs require.
    LIBRARY.impl(_name, torch.library.fallthrough_kernel, "Autograd")


def check(tokens: dict[str, Tensor], mask: Tensor, rows: dict[str, Tensor | None], offsets: Tensor | None) -> None:
    """Refuse arguments that are wrong for every implementation.

    Args:
        tokens: float tensors with one entry per token, by name.
        mask: which tokens count.
        rows: float32 tensors with one entry per row, by name, or None.
        offsets: [B + 1] row starts of a packed layout, or None.

    Raises:
        ValueError: for wrong shapes, dtypes or devices, naming the tensors and what was expected.
    """
    everything = tokens | {"mask": mask}
    dims, layout = (2, "[B, T]") if offsets is None else (1, "[N] (packed, since offsets are given)")
    if mask.dim() != dims or any(tensor.shape != mask.shape for tensor in tokens.values()):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in everything.items())
        raise ValueError(f"{shapes} must share one shape {layout}")
    for name, tensor in tokens.items():
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} has dtype {tensor.dtype}, expected torch.float32 or torch.bfloat16")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}, expected torch.bool (True = counts)")
    if offsets is not None and (offsets.dim() != 1 or offsets.shape[0] == 0 or offsets.dtype != torch.int64):
        raise ValueError(
            f"offsets {tuple(offsets.shape)} {offsets.dtype} must be [B + 1] torch.int64: the start of each row, then N"
        )
    num_rows = mask.shape[0] if offsets is None else offsets.shape[0] - 1
    for name, row in rows.items():
        if row is not None and (row.shape != (num_rows,) or row.dtype != torch.float32):
            raise ValueError(f"{name} {tuple(row.shape)} {row.dtype} must be [{num_rows}] torch.float32: one per row")
    extra = {"offsets": offsets, **rows}
    for name, other in (everything | {key: tensor for key, tensor in extra.items() if tensor is not None}).items():
        if other.device != mask.device:
            raise ValueError(f"{name} is on {other.device}, mask on {mask.device}: one device is needed")


def check_rising(offsets: Tensor, num_tokens: int) -> None:
    """Raise ValueError unless row starts rise from 0 to N. Reads them: on a GPU this waits for it."""
    if int(offsets[0]) != 0 or int(offsets[-1]) != num_tokens or bool((offsets.diff() < 0).any()):
        raise ValueError(f"offsets must rise from 0 to N = {num_tokens}, got {offsets.tolist()}")


def known_estimator(name: str) -> KLEstimator:
    """Check the name of a KL estimator, and return it. Raises ValueError."""
    if name not in get_args(KLEstimator):
        raise ValueError(f"unknown KL estimator {name!r}; known: {', '.join(get_args(KLEstimator))}")
    return cast(KLEstimator, name)


def _rows(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    scores: Tensor | None,
    decays: reference.Decays,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the reference on padded rows, or on packed ones by padding them first."""
    if offsets is None:
        return reference.gae(rewards, values, mask, scores, decays)
    check_rising(offsets, mask.shape[0])
    places, real = reference.row_places(offsets)
    padded = [reference.pad(tensor, places) for tensor in (rewards, values, mask)]
    advantages, returns, moments = reference.gae(padded[0], padded[1], padded[2] & real, scores, decays)
    return advantages[real], returns[real], moments


@torch.library.impl(LIBRARY, "gae", "CompositeExplicitAutograd")
def _gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float,
    gae_lambda: float,
    critic_lambda: float | None = None,
    *,
    row_lambda: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check({"rewards": rewards, "values": values}, mask, {"row_lambda": row_lambda}, offsets)
    decays = reference.Decays(gamma, gae_lambda, critic_lambda, row_lambda)
    advantages, returns, _ = _rows(rewards, values, mask, None, decays, offsets)
    return advantages, returns


@torch.library.impl(LIBRARY, "shaped_gae", "CompositeExplicitAutograd")
def _shaped_gae(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    mask: Tensor,
    kl_coef: float,
    kl_estimator: str,
    gamma: float,
    gae_lambda: float,
    critic_lambda: float | None = None,
    *,
    row_lambda: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens = {"logprobs": logprobs, "ref_logprobs": ref_logprobs, "values": values}
    check(tokens, mask, {"scores": scores, "row_lambda": row_lambda}, offsets)
    rewards = reference.shaped_rewards(logprobs, ref_logprobs, kl_coef, known_estimator(kl_estimator))
    decays = reference.Decays(gamma, gae_lambda, critic_lambda, row_lambda)
    return _rows(rewards, values, mask, scores, decays, offsets)


def _empty(mask: Tensor) -> Tensor:
    return torch.empty(mask.shape, dtype=torch.float32, device=mask.device)


@torch.library.register_fake("prl::gae", lib=LIBRARY)
def _fake_gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *numbers: float | None,
    row_lambda: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check({"rewards": rewards, "values": values}, mask, {"row_lambda": row_lambda}, offsets)
    return _empty(mask), _empty(mask)


@torch.library.register_fake("prl::shaped_gae", lib=LIBRARY)
def _fake_shaped_gae(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    mask: Tensor,
    kl_coef: float,
    kl_estimator: str,
    *numbers: float | None,
    row_lambda: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens = {"logprobs": logprobs, "ref_logprobs": ref_logprobs, "values": values}
    check(tokens, mask, {"scores": scores, "row_lambda": row_lambda}, offsets)
    known_estimator(kl_estimator)
    return _empty(mask), _empty(mask), torch.empty(3, dtype=torch.float64, device=mask.device)
