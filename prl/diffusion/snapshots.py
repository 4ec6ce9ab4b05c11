"""Earlier weights of a network in training, and the network as it was with them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from prl.models.adapters import own_parameters

Weights = Mapping[str, Tensor]
"""Trained weights by name; with adapters those of the adapters alone."""


def trained_weights(network: Any) -> dict[str, Tensor]:
    """Copy the weights that training changes to the CPU."""
    # A copy on the CPU itself would be the weight, which goes on learning.
    return {name: each.detach().to("cpu", copy=True) for name, each in own_parameters(network)}


class EarlierNetwork:
    """A network with earlier weights in place of those that it has learnt since, without gradients.

    The network itself is not touched, so it may be called in between a forward and a backward pass of its own.

    Args:
        network: the network in training, not in shards.
        weights: of `trained_weights`.
    """

    def __init__(self, network: Any, weights: Weights) -> None:
        device = next(network.parameters()).device
        self.network, self.weights = network, {name: each.to(device) for name, each in weights.items()}

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network as it was."""
        return functional_call(self.network, self.weights, args, kwargs)
