"""Small networks of control, and batches of windows of all lengths."""

import torch
from torch import Tensor

from prl.control import ConditionedPolicy, NetworkSettings

SIZES = NetworkSettings(3, 2, 12, context=5, latent_size=4, width=8, layers=1, dropout=0.0)


def a_policy(sizes: NetworkSettings = SIZES, seed: int = 0) -> ConditionedPolicy:
    torch.manual_seed(seed)
    return ConditionedPolicy(sizes)


def a_batch(rows: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """Windows of all lengths, the padding full of odd numbers."""
    draw = torch.Generator().manual_seed(seed)
    batch: dict[str, Tensor] = {}
    for side in ("chosen", "rejected"):
        lengths = torch.randint(1, SIZES.context + 1, (rows,), generator=draw)
        lengths[0] = SIZES.context
        batch[f"{side}_states"] = torch.randn(rows, SIZES.context, 3, generator=draw)
        batch[f"{side}_actions"] = torch.rand(rows, SIZES.context, 2, generator=draw) * 2 - 1
        batch[f"{side}_steps"] = torch.arange(SIZES.context).expand(rows, -1) + torch.tensor([[2]])
        batch[f"{side}_mask"] = torch.arange(SIZES.context) < lengths[:, None]
    return batch
