"""Decoupled cross-attention over the tokens of a user, beside the attention that a network of diffusers has."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from prl.diffusion.denoisers.base import Denoiser
from prl.diffusion.draws import generator
from prl.models.location import ModelNotFoundError

WEIGHTS = "user_attention.safetensors"
"""File of the weights, beside the pipeline that they belong to."""


class UserAttention(nn.Module):
    """A processor of attention that adds softmax(Q K'ᵀ / sqrt d) V' to the one in whose place it stands (2501.06655).

    Q is the picture's own; K' = u W_k' and V' = u W_v' are of the tokens u of a user. W_v' starts at zero, and tokens
    of zeros have V' = 0: in both cases the result is the other processor's, to the bit.

    The interface is that of the IP-adapters of diffusers, whose name for further tokens, `ip_hidden_states`, no other
    processor complains of. Their classes are not used: that of Stable Diffusion takes prompts and tokens as a pair, and
    that of Stable Diffusion 3 attends once more to the picture and normalises by time.

    Args:
        base: the processor of the network.
        attention: the attention that it is of.
        width: numbers of a token.
    """

    def __init__(self, base: Any, attention: Any, width: int) -> None:
        super().__init__()
        self.base = base
        self.to_k = nn.Linear(width, attention.inner_dim, bias=False)
        self.to_v = nn.Linear(width, attention.inner_dim, bias=False)
        nn.init.zeros_(self.to_v.weight)
        self.is_on = True

    # diffusers reads from the signature of `__call__` which arguments a processor takes.
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        ip_hidden_states: Tensor | None = None,
    ) -> Any:
        """Attend to the prompt or the picture as before, and to the tokens of users [N, E, width]."""
        found = self.base(
            attn, hidden_states, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask
        )
        if ip_hidden_states is None or not self.is_on:
            return found
        own = self._attend(attn, hidden_states, ip_hidden_states)
        # The projection is linear, so that of the sum is the sum; its bias is in `found` already.
        project = attn.to_out[0]
        own = (project(own) - project(torch.zeros_like(own[:1, :1]))) / attn.rescale_output_factor
        return (found[0] + own, *found[1:]) if isinstance(found, tuple) else found + own

    def _attend(self, attn: Any, hidden_states: Tensor, tokens: Tensor) -> Tensor:
        """Compute softmax(Q K'ᵀ / sqrt d) V': [N, S, inner]."""
        query = attn.to_q(hidden_states)
        tokens = tokens.to(self.to_k.weight.dtype)
        query, key, value = (
            each.to(query.dtype).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for each in (query, self.to_k(tokens), self.to_v(tokens))
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def add_user_attention(denoiser: Denoiser, network: Any, width: int, seed: int = 0) -> None:
    """Freeze a network, and give its attention over prompts one over users, which learns and starts without effect.

    Args:
        denoiser: says which attention of the network reads prompts.
        network: the network, changed in place.
        width: numbers of a token.
        seed: seed of W_k'.

    Raises:
        ValueError: for a network that does not attend to prompts.
    """
    if denoiser.cross_attention is None:
        raise ValueError(
            f"attention over users is not made for a {type(network).__name__}; choose a StableDiffusion or "
            "StableDiffusion3 pipeline"
        )
    network.requires_grad_(False)
    for name, attention in list(network.named_modules()):
        if name.rpartition(".")[2] == denoiser.cross_attention and hasattr(attention, "set_processor"):
            own = UserAttention(attention.processor, attention, width)
            nn.init.normal_(own.to_k.weight, std=width**-0.5, generator=generator((seed, "user attention", name)))
            attention.set_processor(own.to(attention.to_q.weight.device))


def attentions_of(network: Any) -> dict[str, UserAttention]:
    """List the attentions over users of a network, by name."""
    return {name: part for name, part in network.named_modules() if isinstance(part, UserAttention)}


@contextmanager
def without_users(network: Any) -> Iterator[None]:
    """Leave tokens of users unread inside the block: the network is its base."""
    parts = attentions_of(network).values()
    for part in parts:
        part.is_on = False
    try:
        yield
    finally:
        for part in parts:
            part.is_on = True


@contextmanager
def taken_off(network: Any) -> Iterator[None]:
    """Put the processors of the base back inside the block, for a folder that plain diffusers loads."""
    parts = attentions_of(network)
    owners = {name: network.get_submodule(name.rpartition(".")[0]) for name in parts}
    for name, part in parts.items():
        owners[name].set_processor(part.base)
    try:
        yield
    finally:
        for name, part in parts.items():
            owners[name].set_processor(part)


def save_user_attention(network: Any, folder: Path) -> None:
    """Write the weights of all attentions over users, and nothing else, into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: each.detach().cpu().contiguous() for name, each in _weights(network).items()}
    save_file(weights, folder / WEIGHTS)


def load_user_attention(denoiser: Denoiser, network: Any, folder: Path) -> None:
    """Give a network the attention over users that a folder has beside its pipeline.

    Args:
        denoiser: the frozen parts of the pipeline.
        network: the network, changed in place.
        folder: written by `save_user_attention`.

    Raises:
        ModelNotFoundError: for a folder without such weights.
        ValueError: for weights of another network or other tokens.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelNotFoundError(f"folder {folder} has no {WEIGHTS}; give one that PersonalizedPreferenceModule wrote")
    found = load_file(folder / WEIGHTS)
    if not attentions_of(network):
        add_user_attention(denoiser, network, next(iter(found.values())).shape[1])
    here, there = ({(name, each.shape) for name, each in some.items()} for some in (_weights(network), found))
    if differing := sorted(here ^ there):
        raise ValueError(
            f"{folder / WEIGHTS} is of another network or of other tokens than this one: the first weight that differs "
            f"is {differing[0][0]}; use it with the pipeline beside it and the features it was trained with"
        )
    network.load_state_dict(found, strict=False)


def _weights(network: Any) -> dict[str, Tensor]:
    parts = attentions_of(network).items()
    return {f"{name}.{key}": each for name, part in parts for key, each in part.state_dict().items()}
