"""What encoder and policy may look at, and policies on disk."""

import json
from dataclasses import replace

import pytest
import torch

from prl.control import ConditionedPolicy, Window, load_policy, save_policy
from prl.control.oppo import read_pairs
from tests.helpers.control import SIZES, a_batch, a_policy

STEPS = SIZES.context


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def policy(request) -> ConditionedPolicy:
    """Torch takes other kernels in evaluation."""
    return a_policy(replace(SIZES, layers=2)).train(request.param)


def a_window(rows: int = 2) -> Window:
    batch = a_batch(rows)
    return replace(Window.of(batch, "chosen"), mask=torch.ones(rows, STEPS, dtype=torch.bool))


@torch.no_grad()
def test_an_action_depends_on_the_past_alone(policy) -> None:
    window, latents = a_window(), torch.randn(2, SIZES.latent_size)
    before = policy.reconstruct(window, latents)

    def changed(name: str, step: int) -> list[bool]:
        """Which steps' actions change with one number of a step."""
        value = getattr(window, name).clone()
        value[0, step] += 1
        after = policy.reconstruct(replace(window, **{name: value}), latents)
        assert torch.equal(after[1], before[1])
        return [not torch.allclose(x, y, atol=1e-6) for x, y in zip(after[0], before[0], strict=True)]

    assert changed("states", 2) == [False, False, True, True, True]
    assert changed("actions", 2) == [False, False, False, True, True]
    assert changed("actions", STEPS - 1) == [False] * STEPS
    other = policy.reconstruct(window, latents + 1)
    assert all(not torch.allclose(x, y, atol=1e-6) for x, y in zip(other[0], before[0], strict=True))


@torch.no_grad()
def test_an_encoder_reads_the_whole_window(policy) -> None:
    window = a_window()
    before = policy.encode(window)
    for name in ("states", "actions"):
        for step in (0, STEPS - 1):
            value = getattr(window, name).clone()
            value[0, step] += 1
            assert not torch.allclose(policy.encode(replace(window, **{name: value}))[0], before[0], atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(policy) -> None:
    batch = a_batch(4)
    whole = read_pairs(policy, batch, 1.0)
    for row in range(4):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        for side in ("chosen", "rejected"):
            length = int(alone[f"{side}_mask"].sum())
            alone |= {name: value[:, :length] for name, value in alone.items() if name.startswith(side)}
        for name, value in read_pairs(policy, alone, 1.0).items():
            torch.testing.assert_close(value[0], whole[name][row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_acting_looks_back_as_far_as_the_context(policy) -> None:
    states, actions = torch.randn(2, 8, 3), torch.rand(2, 8, 2)
    steps = torch.arange(8).expand(2, -1)
    before = policy.act(states, actions, steps)
    assert before.shape == (2, 2)
    old, recent, own = states.clone(), states.clone(), actions.clone()
    old[:, 2] += 1
    recent[:, 3] += 1
    own[:, -1] += 1
    assert torch.equal(policy.act(old, actions, steps), before)
    assert not torch.allclose(policy.act(recent, actions, steps), before, atol=1e-6)
    torch.testing.assert_close(policy.act(states, own, steps), before)
    by_optimum = policy.act(states, actions, steps, latent=policy.optimum)
    assert torch.equal(by_optimum, before)


def test_states_are_normalised() -> None:
    policy, window = a_policy(), a_window()
    before = policy.encode(window)
    mean, deviation = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    policy.normalize_by(mean, deviation)
    again = policy.encode(replace(window, states=window.states * (deviation + 1e-6) + mean))
    torch.testing.assert_close(again, before, rtol=1e-4, atol=1e-4)


def test_a_policy_comes_back_from_its_folder(tmp_path) -> None:
    policy = a_policy().eval()
    policy.normalize_by(torch.ones(3), torch.ones(3))
    save_policy(policy, tmp_path)
    read = load_policy(tmp_path)
    assert read.sizes == policy.sizes
    assert not read.training
    assert all(torch.equal(x, y) for x, y in zip(policy.state_dict().values(), read.state_dict().values(), strict=True))


def test_folders_that_hold_no_policy(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no config.json"):
        load_policy(tmp_path)
    save_policy(a_policy(), tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(ValueError, match="no whole policy"):
        load_policy(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changed, words in ((config | {"width": 16}, "no whole policy"), (config | {"model_type": "llama"}, "prl_oppo")):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        (tmp_path / "model.safetensors").write_bytes(weights)
        with pytest.raises(ValueError, match=words):
            load_policy(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": 9}, "a multiple of encoder_heads, 2"),
        ({"layers": 0}, "layers is 0"),
        ({"dropout": 1.0}, r"dropout is 1.0; expected a number in \[0, 1\)"),
        ({"context": 13}, "a trajectory has 12 steps"),
        ({"optimum_scale": -1.0}, "optimum_scale is -1.0"),
    ],
)
def test_sizes_that_make_no_network(changed, words) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SIZES, **changed)


def test_z_begins_as_wide_as_asked() -> None:
    assert a_policy(replace(SIZES, optimum_scale=0.0)).optimum.tolist() == [0.0] * 4
    wide, narrow = (a_policy(replace(SIZES, latent_size=400, optimum_scale=each)).optimum.std() for each in (2.0, 0.5))
    assert wide.item() == pytest.approx(2.0, rel=0.15)
    assert narrow.item() == pytest.approx(0.5, rel=0.15)
