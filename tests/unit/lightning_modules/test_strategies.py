"""What strategies mean before there are processes."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from transformers import AutoModelForCausalLM, DynamicCache

from lightning_modules import PairwisePPOModule, SupervisedModule
from lightning_modules.ppo_checks import check_warmup
from lightning_modules.strategies import (
    FSDP2Strategy,
    ZeROStrategy,
    check_setting,
    sampling,
    sharding,
    sharding_of,
    shards_of,
    use_sharded_checkpoints,
)
from lightning_modules.strategies.sampling import cache_bytes, free_bytes
from prl.config import LoRA, ModelSource, Update
from prl.models.collective import CollectiveForward
from prl.models.loading import load_causal_lm, on_meta_device
from prl.models.memory import Shards
from prl.rewards import RuleReward
from tests.helpers.tiny import tiny_model, write_tiny_model


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("auto", Shards()),
        ("ddp_find_unused_parameters_true", Shards()),
        ("fsdp2", Shards(weights=True, gradients=True, optimizer=True)),
        ("zero2", Shards(gradients=True, optimizer=True, master=True, live=10**9)),
        ("zero3", Shards(weights=True, gradients=True, optimizer=True, master=True, live=10**9)),
        (
            {"class_path": "lightning_modules.strategies.ZeROStrategy", "init_args": {"stage": 1}},
            Shards(optimizer=True, master=True, live=10**9),
        ),
        (
            {"class_path": "lightning_modules.strategies.FSDP2Strategy", "init_args": {"replicas": 4}},
            Shards(weights=True, gradients=True, optimizer=True, replicas=4),
        ),
    ],
)
def test_what_a_setting_cuts(setting: Any, expected: Shards) -> None:
    assert shards_of(setting) == expected


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("fsdp", "trainer.strategy is torch's older FSDP; use fsdp2"),
        ({"class_path": "lightning.pytorch.strategies.FSDPStrategy"}, "trainer.strategy is torch's older FSDP"),
        ("deepspeed_stage_2", "trainer.strategy is Lightning's own DeepSpeed; use zero1, zero2 or zero3"),
        ("fsdp2_hybrid", "trainer.strategy is 'fsdp2_hybrid', which is none; take auto, ddp"),
        ("zero2", "trainer.strategy is zero2, and DeepSpeed needs GPUs .trainer.accelerator is cpu, "),
    ],
)
def test_a_setting_that_cannot_be_is_refused(strategy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_setting(strategy, "cpu", "32-true")


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_spawn", "fsdp2", {"class_path": "tests.helpers.CPUZeRO"}])
def test_a_setting_that_can_be_is_not_refused(strategy: Any) -> None:
    check_setting(strategy, "cpu", "bf16-mixed")
    check_setting("zero3", "gpu", "bf16-mixed")


def test_a_warmed_up_critic_needs_ddp_that_does_not_wait_for_the_policy() -> None:
    def check(strategy: Any, warmup: int) -> None:
        check_warmup(warmup, SimpleNamespace(strategy=strategy))

    with pytest.raises(ValueError, match="use --trainer.strategy ddp_find_unused_parameters_true"):
        check(DDPStrategy(), 1)
    check(DDPStrategy(), 0)
    check(DDPStrategy(find_unused_parameters=True), 1)
    check(FSDP2Strategy(), 1)
    pytest.importorskip("deepspeed")
    for stage in (1, 2, 3):
        check(ZeROStrategy(stage=stage), 1)


def test_who_has_whole_weights() -> None:
    pytest.importorskip("deepspeed")
    strategies = {True: [FSDP2Strategy(), ZeROStrategy(stage=3)], False: [DDPStrategy(), ZeROStrategy(stage=2)]}
    for expected, each in strategies.items():
        assert [sharding_of(SimpleNamespace(strategy=strategy)).cuts_weights for strategy in each] == [expected] * 2


def test_only_what_is_cut_is_written_in_parts() -> None:
    strategy = FSDP2Strategy()
    use_sharded_checkpoints(strategy)
    assert strategy.sharded_checkpoints
    with pytest.raises(ValueError, match="checkpoint.sharded is true with DDPStrategy, under which every process has"):
        use_sharded_checkpoints(DDPStrategy())


def test_a_whole_model_samples_by_itself() -> None:
    trainer = SimpleNamespace(strategy=DDPStrategy())
    with sharding_of(trainer).sampling(tiny_model(0), "auto", tokens=10) as synced:
        assert not synced


def test_weights_in_shards_are_put_together_where_they_fit_beside_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(0)
    monkeypatch.setattr(FSDP2Strategy, "root_device", torch.device("cpu"))
    monkeypatch.setattr(sharding.fsdp2, "unsharded", nullcontext)
    trainer = SimpleNamespace(strategy=FSDP2Strategy())
    weights = sum(each.nbytes for each in model.parameters())
    monkeypatch.setattr(sampling, "free_bytes", lambda _: (weights + cache_bytes(model, 11)) / sampling.SPARE)
    gather: Any
    for gather, tokens, expected in (
        ("auto", 10, False),
        ("auto", 12, True),
        ("always", 12, False),
        ("never", 10, True),
    ):
        with sharding_of(trainer).sampling(model, gather, tokens=tokens) as synced:
            assert synced is expected


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_caches_take_what_is_counted(heads: int) -> None:
    model = tiny_model(0, num_attention_heads=4, num_key_value_heads=heads)
    ids = torch.arange(5, 25).reshape(2, 10)
    cache = DynamicCache(config=model.config)
    model(ids, past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(model, ids.numel()) == held


def test_free_memory_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    alone = free_bytes(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.2)


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)])
def test_a_model_without_weights_is_like_the_one_with_them(lora: LoRA | None, tmp_path: Any) -> None:
    write_tiny_model(tmp_path, seed=0, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.generation_config.eos_token_id = [1, 7]
    model.save_pretrained(tmp_path)
    source = ModelSource(path=str(tmp_path), lora=lora)
    real = load_causal_lm(source)
    with on_meta_device():
        empty = load_causal_lm(source)
    with on_meta_device(False):
        assert not any(each.is_meta for each in load_causal_lm(source).parameters())
    assert all(each.is_meta for each in (*empty.parameters(), *empty.buffers()))
    for kind in ("named_parameters", "named_buffers"):
        one, other = (
            {name: (t.shape, t.dtype, t.requires_grad) for name, t in getattr(m, kind)()} for m in (real, empty)
        )
        assert one == other
    assert empty.generation_config.eos_token_id == real.generation_config.eos_token_id == [1, 7]


def test_synced_with_nobody_a_model_is_itself() -> None:
    model = tiny_model(0)
    ids = torch.arange(5, 15)[None]
    judge = CollectiveForward(model, torch.device("cpu"))
    assert torch.equal(judge(ids).logits, model(ids).logits)
    judge.finish()
    assert judge.config is model.config
    assert judge.get_input_embeddings() is model.get_input_embeddings()
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = judge.nothing_like_it


def test_strategies_that_would_train_wrongly_are_refused() -> None:
    pytest.importorskip("deepspeed")
    cases = {
        "use zero1, zero2 or zero3": DeepSpeedStrategy(stage=2),
        "use fsdp2": FSDPStrategy(),
    }
    for message, strategy in cases.items():
        with pytest.raises(ValueError, match=message):
            sharding_of(SimpleNamespace(strategy=strategy))


def test_state_on_nvme_is_refused() -> None:
    pytest.importorskip("deepspeed")
    strategy = ZeROStrategy(stage=3, offload_optimizer=True, offload_optimizer_device="nvme", nvme_path="/tmp")
    strategy._lightning_module = None
    with pytest.raises(ValueError, match="nvme are out of a checkpoint's reach"):
        strategy._init_config_if_needed()


@pytest.mark.parametrize("replicas", [0, 2])
def test_replicas_that_do_not_divide_the_processes_are_refused(replicas: int) -> None:
    strategy = FSDP2Strategy(replicas=replicas)
    strategy.parallel_devices = [torch.device("cpu")] * 3
    with pytest.raises(ValueError, match=f"init_args.replicas is {replicas}, for 3 processes; it has to divide them"):
        strategy.setup_environment()


def test_a_launcher_that_started_more_than_the_settings_say_is_told() -> None:
    strategy = FSDP2Strategy()
    strategy.parallel_devices = [torch.device("cpu")]
    launcher: Any = SimpleNamespace(creates_processes_externally=True, world_size=lambda: 2)
    strategy.cluster_environment = launcher
    with pytest.raises(ValueError, match="trainer.num_nodes times trainer.devices is 1, but 2 processes were started"):
        strategy.setup_environment()


def test_a_model_unlike_its_config_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has a weight of another type."""
    model = tiny_model(0)
    name = next(iter(dict(model.named_parameters())))

    def both(mine: dict[str, Any]) -> list[dict[str, Any]]:
        return [mine, {**mine, name: (mine[name][0], "torch.bfloat16")}]

    monkeypatch.setattr(sharding, "gathered", both)
    with pytest.raises(ValueError, match=f"differs from what its config describes, at first in {name}"):
        sharding_of(SimpleNamespace(strategy=FSDP2Strategy())).shard(model)


def test_zero_clips_what_a_module_steps_by_hand(tiny_folder: Any) -> None:
    """DeepSpeed clips in its own step, so PPO's limit has to reach its config."""
    pytest.importorskip("deepspeed")
    module = PairwisePPOModule(ModelSource(path=str(tiny_folder)), RuleReward(), update=Update(max_grad_norm=0.25))
    strategy = ZeROStrategy(stage=3)
    for each, expected in ((module, 0.25), (SupervisedModule(ModelSource(path=str(tiny_folder))), 0.5)):
        each._trainer = SimpleNamespace(gradient_clip_val=0.5, accumulate_grad_batches=1)
        strategy: Any = ZeROStrategy(stage=3, logging_batch_size_per_gpu=1)
        strategy._lightning_module = each
        strategy._init_config_if_needed()
        assert strategy.config.get("gradient_clipping") == expected


@pytest.mark.parametrize(("process", "expected"), [(0, [1.0, 2.0, 9.0]), (1, [3.0])])
def test_padding_of_the_last_shard_is_no_weight(process: int, expected: list[float], monkeypatch) -> None:
    """Weights of three numbers and of one, over two processes: the second has one padded shard, and one of padding."""
    monkeypatch.setattr("lightning_modules.strategies.zero.rank", lambda: process)
    weights = [
        SimpleNamespace(ds_numel=numel, ds_shape=torch.Size([numel]), shape=torch.Size([numel])) for numel in (3, 1)
    ]
    flat = torch.tensor([[1.0, 2.0, 9.0], [3.0, torch.nan, torch.inf]][process])
    zero = SimpleNamespace(
        fp32_partitioned_groups_flat=[flat],
        sub_group_to_group_id={0: 0},
        get_param_id=weights.index,
        grad_position={0: (0, 0, 2), 1: (0, 2, 1)},
    )
    strategy: Any = ZeROStrategy(stage=3)
    strategy._numbered, strategy._deepspeed_engine = [weights], SimpleNamespace(optimizer=zero)
    monkeypatch.setattr(ZeROStrategy, "deepspeed_engine", property(lambda self: self._deepspeed_engine))
    assert torch.cat(strategy.local_weights()).tolist() == expected
