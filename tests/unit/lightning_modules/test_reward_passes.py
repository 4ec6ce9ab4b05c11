"""Further passes of a reward model: hidden states under dropout, and a look ahead along unlabelled responses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from datamodules.steps import StepLoader
from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule
from lightning_modules.look_ahead import LookAhead, check_look_ahead, read_unlabelled
from prl.config import LoRA, ModelSource, Optimization
from prl.data import DataError, DataSource, PreferencePair
from prl.data.tokens import right_pad
from prl.models.dropout import using_dropout
from prl.objectives.reward import BradleyTerry, Contrastive, MetaRM
from prl.rewards.scalar import end_states, head_rewards

PROMPT = ({"role": "user", "content": "reverse dcab"},)
PAIRS = [PreferencePair(PROMPT, "bacd" * (1 + n % 2), "dcba"[: 1 + n % 4], weight=1 + n % 2) for n in range(8)]
SAMPLES = [["bacd", "ab", "dcba"], ["aa", "bb"], ["abab", "b", "c", "dd"], ["d", "cc"], ["a", "bcd"]]


def unlabelled(folder: Path, samples: list[Any] = SAMPLES) -> DataSource:
    rows = [{"prompt": f"reverse {n}", "responses": texts, "chosen": "ignored"} for n, texts in enumerate(samples)]
    (folder / "unlabelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSource(str(folder / "unlabelled.jsonl"))


def made(folder: Any, objective: Any, **settings: Any) -> BradleyTerryRewardModule:
    torch.manual_seed(0)  # the head is new
    source = ModelSource(path=str(folder), **settings.pop("model", {}))
    module = BradleyTerryRewardModule(source, objective=objective, max_length=64, **settings)
    module.configure_model()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    return module


def batch_of(module: Any, pairs: Any = PAIRS[:3]) -> dict[str, Tensor]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(pair) for pair in pairs])


def weights(module: Any) -> list[Tensor]:
    return [each.detach().clone() for each in module.model.parameters()]


# ---- passes with dropout


@pytest.mark.parametrize("model", [{}, {"lora": LoRA(rank=2, target_modules=["q_proj"])}], ids=["whole", "lora"])
def test_a_state_is_what_the_head_reads(model: Any, tiny_folder: Any) -> None:
    module = made(tiny_folder, None, model=model)
    batch = batch_of(module)
    inputs = batch["input_ids"], batch["attention_mask"]
    states = end_states(module.model, *inputs)
    head = dict(module.model.named_modules())["base_model.model.score" if model else "score"]
    torch.testing.assert_close(head(states).float(), head_rewards(module.model, *inputs))
    with using_dropout(module.model, 0.5):
        passes = [end_states(module.model, *inputs) for _ in range(2)]
        with pytest.raises(ZeroDivisionError), using_dropout(module.model, 0.9):
            raise ZeroDivisionError
    assert not torch.equal(*passes)
    assert torch.equal(end_states(module.model, *inputs), states)  # off again


def test_a_model_without_dropout_is_named() -> None:
    with pytest.raises(ValueError, match="Linear has no dropout"), using_dropout(torch.nn.Linear(1, 1), 0.5):
        pass


def test_the_term_reads_both_responses_of_each_pair_in_two_passes(tiny_folder: Any) -> None:
    module = made(tiny_folder, Contrastive(beta=0.7, dropout=0.4))
    batch = batch_of(module)
    torch.manual_seed(3)
    found = module.training_step(batch, 0)
    torch.manual_seed(3)
    inputs = batch["input_ids"], batch["attention_mask"]
    with using_dropout(module.model, 0.4):
        one, other = (torch.nn.functional.normalize(end_states(module.model, *inputs), dim=1) for _ in range(2))
    cosines = one @ other.T / 0.05
    apart = -(cosines.diagonal() - cosines.logsumexp(1))  # of chosen, then of rejected
    rewards = head_rewards(module.model, *inputs)[:, 0]
    plain = -torch.nn.functional.logsigmoid(rewards[:3] - rewards[3:])
    losses = plain + 0.7 * (apart[:3] + apart[3:]) / 2
    torch.testing.assert_close(found, (losses * batch["weights"]).sum() / batch["weights"].sum())
    found.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in module.model.parameters())


@pytest.mark.parametrize("objective", [Contrastive(beta=0.0), MetaRM(eta=0.0)])
def test_a_weight_of_zero_is_the_plain_step_and_draws_nothing(objective: Any, tiny_folder: Any) -> None:
    gradients = []
    for each in (objective, BradleyTerry()):
        module = made(tiny_folder, each)
        torch.manual_seed(5)
        module.training_step(batch_of(module), 0).backward()
        module.on_after_backward()
        gradients.append([parameter.grad for parameter in module.model.parameters()])
        assert torch.initial_seed() == 5
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(5)))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# ---- a look ahead


def ready(folder: Any, scratch: Path, objective: Any, **settings: Any) -> BradleyTerryRewardModule:
    """Make a module that has read its unlabelled responses, as `setup` does in a run."""
    module = made(folder, objective, unlabelled=unlabelled(scratch), **settings)
    encoder = module.build_encoder()
    prompts, _ = read_unlabelled(module.unlabelled, encoder)  # type: ignore[arg-type]
    module.look_ahead = LookAhead(module.objective, prompts, int(encoder.tokenizer.pad_token_id or 0), (1.0,))
    return module


def test_the_update_is_that_of_a_look_ahead_by_finite_differences(tiny_folder: Any, tmp_path: Path) -> None:
    eta = 0.3
    module = ready(tiny_folder, tmp_path, MetaRM(eta=eta, prompts=2))
    module.model.double().requires_grad_(False)
    head = module.model.score.weight.requires_grad_()
    batch, own = batch_of(module), head.detach().clone()
    module.training_step(batch, 0).backward()
    assert not torch.equal(head, own)
    module.on_after_backward()
    assert torch.equal(head, own)

    chosen = module.look_ahead.of_step(0)  # type: ignore[union-attr]
    pad = int(module.build_encoder().tokenizer.pad_token_id or 0)

    @torch.no_grad()
    def apart(weight: Tensor) -> float:
        head.copy_(weight)
        means = []
        for rows in chosen:
            rewards = head_rewards(module.model, *right_pad(rows, pad))[:, 0].double()
            pairs = [(a - b).abs().sigmoid() for n, a in enumerate(rewards) for b in rewards[n + 1 :]]
            means.append(2 * sum(pairs) / len(rows) ** 2)
        return float(sum(means) / len(means))

    @torch.no_grad()
    def loss(weight: Tensor) -> float:
        head.copy_(weight)
        rewards = head_rewards(module.model, batch["input_ids"], batch["attention_mask"])[:, 0].double()
        losses = -torch.nn.functional.logsigmoid(rewards[:3] - rewards[3:])
        return float((losses * batch["weights"]).sum() / batch["weights"].sum())

    def slope(function: Any, weight: Tensor, step: float = 2e-2) -> Tensor:
        found = torch.zeros_like(weight)
        for place in range(weight.numel()):
            moved = torch.zeros_like(weight).index_fill_(1, torch.tensor(place), step)
            found[0, place] = (function(weight + moved) - function(weight - moved)) / (2 * step)
        return found

    ahead = own + eta * slope(apart, own)
    assert head.grad is not None
    torch.testing.assert_close(head.grad, slope(loss, ahead), rtol=2e-3, atol=2e-4)
    assert (slope(loss, own) - head.grad).norm() > 10 * (slope(loss, ahead) - head.grad).norm()


def test_weights_come_back_to_the_last_bit_and_frozen_ones_never_move(tiny_folder: Any, tmp_path: Path) -> None:
    lora = {"lora": LoRA(rank=2, target_modules=["q_proj"])}
    module = ready(tiny_folder, tmp_path, MetaRM(Contrastive(), eta=5.0), model=lora)
    before = weights(module)
    loss = module.training_step(batch_of(module), 0)
    moved = [not torch.equal(*pair) for pair in zip(weights(module), before, strict=True)]
    trained = [each.requires_grad for each in module.model.parameters()]
    assert any(moved)
    assert not any(move and not learns for move, learns in zip(moved, trained, strict=True))
    loss.backward()
    module.on_save_checkpoint({"state_dict": {}})
    assert all(torch.equal(*pair) for pair in zip(weights(module), before, strict=True))


def test_mixed_precision_reads_the_weights_ahead(tiny_folder: Any, tmp_path: Path) -> None:
    """Autocast keeps copies of weights in bfloat16, and would read those of the first pass in the second."""
    losses = []
    for cached in (True, False):
        module = ready(tiny_folder, tmp_path, MetaRM(eta=20.0))
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            losses.append(module.training_step(batch_of(module), 0))
        module.on_after_backward()
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(made(tiny_folder, None).training_step(batch_of(module), 0))
    assert losses[0] == losses[2] != losses[1]


def test_a_pass_reads_every_prompt_once_in_an_order_of_its_own() -> None:
    prompts = [[[n], [n, n]] for n in range(5)]
    ahead = LookAhead(MetaRM(prompts=2), prompts, 0, (1.0,))
    read = [rows[0][0] for step in range(10) for rows in ahead.of_step(step)]
    passes = [read[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(each) == list(range(5)) for each in passes)
    assert len({tuple(each) for each in passes}) > 1
    assert ahead.of_step(3) == ahead.of_step(3)


def test_accumulated_batches_look_ahead_alike_from_the_same_weights(tiny_folder: Any, tmp_path: Path) -> None:
    source, still = unlabelled(tmp_path), Optimization(learning_rate=1e-30)
    found = []
    for size, every in ((1, 3), (3, 1)):
        torch.manual_seed(0)
        module: Any = BradleyTerryRewardModule(
            ModelSource(path=str(tiny_folder)), still, MetaRM(eta=1.0, prompts=2), 64, unlabelled=source
        )
        encoder, seen = module.build_encoder(), []
        module.on_before_optimizer_step = lambda optimizer, seen=seen, module=module: seen.append(
            torch.cat([each.grad.flatten() for each in module.parameters()])
        )
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "default_root_dir": tmp_path, "accelerator": "cpu"}
        trainer = Trainer(accumulate_grad_batches=every, max_steps=2, max_epochs=1, **quiet)
        rows = [encoder.encode(pair) for pair in PAIRS[:6]]
        trainer.fit(module, StepLoader(rows, size, collate_fn=encoder.collate, trainer=trainer))
        found.append(seen)
    assert len(found[0]) == len(found[1]) == 2
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


# ---- what is refused


@pytest.mark.parametrize(
    ("objective", "settings", "words"),
    [
        (MetaRM(), {}, "MetaRM looks ahead along unlabelled responses; set model.init_args.unlabelled.path"),
        (BradleyTerry(), {"unlabelled": DataSource("x.jsonl")}, "unlabelled is set, and BradleyTerry does not look"),
        (MetaRM(eta=0.0), {"unlabelled": DataSource("x.jsonl")}, "unlabelled is set, and MetaRM does not look"),
        (Contrastive(), {"model": ModelSource(path="x", gradient_checkpointing=True)}, "gradient_checkpointing"),
    ],
)
def test_needs_are_checked_before_anything_is_read(objective: Any, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BradleyTerryRewardModule(**{"model": ModelSource(path="x"), "objective": objective, **settings})


@pytest.mark.parametrize(("objective", "need"), [(MetaRM(), "look_ahead"), (Contrastive(), "dropout_passes")])
def test_a_judge_serves_neither(objective: Any, need: str) -> None:
    with pytest.raises(ValueError, match=f"names {need}, which only a scalar reward model serves"):
        GenerativeRewardModule(ModelSource(path="x"), objective=objective)


@pytest.mark.parametrize("name", ["cuts_weights", "keeps_float32_copies"])
def test_weights_in_shards_do_not_move(name: str) -> None:
    whole = {"cuts_weights": False, "keeps_float32_copies": False}
    trainer = SimpleNamespace(strategy=None, precision="32-true")
    check_look_ahead(trainer, SimpleNamespace(**whole))
    with pytest.raises(ValueError, match="use trainer.strategy auto or ddp"):
        check_look_ahead(trainer, SimpleNamespace(**{**whole, name: True}))
    with pytest.raises(ValueError, match="trainer.precision is 16-mixed"):
        check_look_ahead(SimpleNamespace(strategy=None, precision="16-mixed"), SimpleNamespace(**whole))


@pytest.mark.parametrize("texts", [None, "ab", [], ["a", 1]])
def test_a_row_without_several_responses_is_named(texts: Any, tiny_folder: Any, tmp_path: Path) -> None:
    encoder = made(tiny_folder, None).build_encoder()
    with pytest.raises(DataError, match="a list of texts, of which a look ahead needs two different ones"):
        read_unlabelled(unlabelled(tmp_path, [["a", "b"], texts]), encoder)


def test_a_prompt_whose_responses_are_all_equal_is_left_out_and_counted(tiny_folder, tmp_path, caplog) -> None:
    """`prl pairs --lists` writes such rows where all samples of a prompt are one text."""
    encoder = made(tiny_folder, None).build_encoder()
    prompts, _ = read_unlabelled(unlabelled(tmp_path, [["a"], ["a", "b"], ["c", "c"]]), encoder)
    assert len(prompts) == 1
    assert "2 of 3 prompts" in caplog.text
    with pytest.raises(ValueError, match="no prompt with two different responses"):
        read_unlabelled(unlabelled(tmp_path, [["a"], ["c", "c"]]), encoder)


def test_responses_that_do_not_fit_are_named(tiny_folder: Any, tmp_path: Path) -> None:
    encoder = made(tiny_folder, None, on_too_long="skip").build_encoder()
    with pytest.raises(ValueError, match="prompt 1 of .* has 1 responses of at most max_length 64 tokens"):
        read_unlabelled(unlabelled(tmp_path, [["a", "b" * 99]]), encoder)
    encoder = made(tiny_folder, None, on_too_long="error").build_encoder()
    with pytest.raises(ValueError, match="unlabelled: prompt 1 of .*: prompt and response take"):
        read_unlabelled(unlabelled(tmp_path, [["a", "b" * 99]]), encoder)
