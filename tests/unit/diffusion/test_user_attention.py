"""Attention over users beside that of diffusers' networks: against plain formulas, and diffusers' own IP-adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prl.config import ModelSource
from prl.diffusion.denoisers import load_denoiser
from prl.diffusion.denoisers.base import USERS
from prl.diffusion.sampling import Prompted
from prl.diffusion.user_attention import (
    WEIGHTS,
    add_user_attention,
    attentions_of,
    load_user_attention,
    save_user_attention,
    taken_off,
    without_users,
)
from prl.models.location import ModelNotFoundError
from tests.helpers.pictures import write_class_conditional, write_stable_diffusion, write_stable_diffusion_3

pytest.importorskip("diffusers")

WRITERS = {"unet": write_stable_diffusion, "transformer": write_stable_diffusion_3}
WIDTH, EXAMPLES = 5, 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("pipelines")
    return {name: write(home / name) for name, write in WRITERS.items()}


@pytest.fixture(params=WRITERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(folder: Path) -> tuple[Any, Any]:
    return load_denoiser(ModelSource(path=str(folder)), prompt_tokens=6)


def learnt(network: Any, seed: int = 1) -> Any:
    """Values that are not 0, as after training."""
    draw = torch.Generator().manual_seed(seed)
    for part in attentions_of(network).values():
        torch.nn.init.normal_(part.to_v.weight, generator=draw)
    return network


def inputs(denoiser: Any) -> tuple[Any, ...]:
    noisy = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    time = denoiser.process.quantile(torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))
    return noisy, time, denoiser.encode(["a red circle", "", "a blue square"], torch.device("cpu"))


def tokens(seed: int = 2, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, EXAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_the_start_and_no_user_are_the_base_to_the_bit(kind, folders) -> None:
    denoiser, network = read(folders[kind])
    *call, condition = inputs(denoiser)
    base = denoiser.predict(network, *call, condition)
    add_user_attention(denoiser, network, WIDTH)
    assert torch.equal(denoiser.predict(network, *call, condition | {USERS: tokens()}), base)
    learnt(network)
    for_users = denoiser.predict(network, *call, condition | {USERS: tokens()})
    assert not torch.allclose(for_users, base, atol=1e-3)
    nobody = torch.zeros_like(tokens())
    assert torch.equal(denoiser.predict(network, *call, condition), base)
    assert torch.equal(denoiser.predict(network, *call, condition | {USERS: nobody}), base)
    with without_users(network):
        assert torch.equal(denoiser.predict(network, *call, condition | {USERS: tokens()}), base)
    assert torch.equal(denoiser.predict(network, *call, condition | {USERS: tokens()}), for_users)
    half = torch.cat([tokens()[:1], nobody[1:]])  # each row has a user of its own
    found = denoiser.predict(network, *call, condition | {USERS: half})
    torch.testing.assert_close(found, torch.cat([for_users[:1], base[1:]]), atol=1e-5, rtol=1e-5)


def test_the_order_of_examples_does_not_matter(kind, folders) -> None:
    denoiser, network = read(folders[kind])
    add_user_attention(denoiser, network, WIDTH)
    *call, condition = inputs(denoiser)
    one, other, fewer = (
        denoiser.predict(learnt(network), *call, condition | {USERS: tokens()[:, order]})
        for order in ([0, 1, 2], [2, 0, 1], [0, 1])
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one, fewer, atol=1e-3)


def test_both_attentions_are_added_before_the_projection(kind, folders) -> None:
    """Z = softmax(Q Kᵀ / sqrt d) V + softmax(Q K'ᵀ / sqrt d) V', head by head, in float64."""
    denoiser, network = read(folders[kind])
    add_user_attention(denoiser, network, WIDTH)
    part = next(iter(attentions_of(learnt(network).double()).values()))
    attention = next(each for each in network.modules() if getattr(each, "processor", None) is part)
    prompts = getattr(attention, "cross_attention_dim" if kind == "unet" else "query_dim")
    draw = torch.Generator().manual_seed(4)
    states, texts = (
        torch.randn(3, n, width, generator=draw).double() for n, width in ((7, attention.query_dim), (4, prompts))
    )
    seen: list[torch.Tensor] = []
    hook = attention.to_out[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    part.base(attention, states, encoder_hidden_states=texts)
    hook.remove()
    expected, users = seen[0].clone(), tokens().double()
    size = attention.inner_dim // attention.heads
    for head in range(attention.heads):
        of = slice(head * size, (head + 1) * size)
        query, key, value = attention.to_q(states)[..., of], part.to_k(users)[..., of], part.to_v(users)[..., of]
        weights = (query @ key.transpose(1, 2) / size**0.5).exp()
        expected[..., of] += weights / weights.sum(2, keepdim=True) @ value
    found = attention(states, encoder_hidden_states=texts, ip_hidden_states=users)
    found = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(found, attention.to_out[0](expected), atol=1e-10, rtol=1e-8)


def test_the_ip_adapter_of_diffusers_gives_the_same(folders) -> None:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    denoiser, network = read(folders["unet"])
    add_user_attention(denoiser, network, WIDTH)
    part = next(iter(attentions_of(learnt(network)).values()))
    attention = next(each for each in network.modules() if getattr(each, "processor", None) is part)
    states, texts = torch.randn(3, 7, attention.query_dim), torch.randn(3, 4, attention.cross_attention_dim)
    ours = attention(states, encoder_hidden_states=texts, ip_hidden_states=tokens())
    theirs = IPAdapterAttnProcessor2_0(attention.inner_dim, WIDTH, (EXAMPLES,))
    theirs.to_k_ip[0], theirs.to_v_ip[0] = part.to_k, part.to_v
    expected = theirs(attention, states, encoder_hidden_states=(texts, [tokens()]))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_only_attention_over_users_learns(kind, folders) -> None:
    denoiser, network = read(folders[kind])
    add_user_attention(denoiser, network, WIDTH)
    *call, condition = inputs(denoiser)
    denoiser.predict(learnt(network), *call, condition | {USERS: tokens()}).square().mean().backward()
    moved = {name for name, each in network.named_parameters() if each.grad is not None and each.grad.abs().max() > 0}
    own = {f"{name}.{key}.weight" for name in attentions_of(network) for key in ("to_k", "to_v")}
    assert moved == own
    assert own == {name for name, each in network.named_parameters() if each.requires_grad}


def test_plain_diffusers_loads_the_base_and_the_rest_is_put_back(kind, folders, tmp_path) -> None:
    denoiser, network = read(folders[kind])
    *call, condition = inputs(denoiser)
    base = denoiser.predict(network, *call, condition)
    add_user_attention(denoiser, network, WIDTH)
    expected = denoiser.predict(learnt(network), *call, condition | {USERS: tokens()})
    with taken_off(network):
        denoiser.save(network, tmp_path)
    save_user_attention(network, tmp_path)
    assert torch.equal(denoiser.predict(network, *call, condition | {USERS: tokens()}), expected)
    (written,) = (tmp_path / denoiser.part).glob("*.safetensors")
    assert not [name for name in load_file(written) if "processor" in name]
    again, plain = read(tmp_path)
    assert torch.equal(again.predict(plain, *call, condition), base)
    load_user_attention(again, plain, tmp_path)
    assert torch.equal(again.predict(plain, *call, condition | {USERS: tokens()}), expected)
    guided = Prompted(
        again, plain, *({**condition, USERS: each} for each in (tokens(), torch.zeros_like(tokens()))), 2.0
    )
    torch.testing.assert_close(guided(*call), 2 * expected - base, atol=1e-5, rtol=1e-5)
    other = read(folders[kind])[1]
    add_user_attention(denoiser, other, WIDTH + 1)
    with pytest.raises(ValueError, match="of another network or of other tokens"):
        load_user_attention(denoiser, other, tmp_path)


def test_what_cannot_be_read_is_named(folders, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"has no {WEIGHTS}"):
        load_user_attention(*read(folders["unet"]), tmp_path)
    denoiser, network = read(write_class_conditional(tmp_path / "classes"))
    with pytest.raises(ValueError, match="attention over users is not made for a UNet2DModel"):
        add_user_attention(denoiser, network, WIDTH)
