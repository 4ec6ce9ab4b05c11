"""Weights in shards over two CPU processes: the same numbers, the same checkpoints, the same exported folder."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prl.checkpoints.files import LAST
from prl.cli.commands.export import export
from prl.evaluation.policy.validation_log import ValidationLog
from tests.integration.runs import CONFIGS, Home, Interrupt, InTurns, callback, differences, last_checkpoint, state_of
from tests.integration.test_resume import batches_in, same_ledger
from tests.integration.test_two_processes import STRATEGIES, launch, run

MODEL = "--model.init_args."
SHARDED = ["fsdp2", "zero2", "zero3"]
PLANNED = (
    *("--model", "tests.helpers.planned.PlannedPPO", f"{MODEL}sampling.max_new_tokens", "9"),
    *(f"{MODEL}update.microbatch_size", "8", f"{MODEL}update.minibatches", "1"),
)
"""One minibatch: how rows are dealt to several is a matter of each process's draws."""
STAGES = {
    "supervised": ("supervised", ()),
    "generative_reward": ("generative_reward", (f"{MODEL}text_coef", "1.0")),
    "bradley_terry": ("bradley_terry", ()),
    "preference": ("preference", ()),
    # Four batches make an epoch, so that a step has three, the next one a single one.
    "accumulated": ("generative_reward", (f"{MODEL}text_coef", "1.0", "--trainer.accumulate_grad_batches", "3")),
    "pairwise_ppo": ("pairwise_ppo", PLANNED),
    "pairwise_ppo, shared prompts": (
        "pairwise_ppo",
        (*PLANNED, f"{MODEL}sampling.per_prompt", "2", f"{MODEL}update.packed", "on"),
    ),
    "pairwise_ppo, shared critic": ("pairwise_ppo", (*PLANNED, f"{MODEL}critic.kind", "shared")),
    "pairwise_ppo, adapters": (
        "pairwise_ppo",
        (*PLANNED, f"{MODEL}critic.kind", "adapter", f"{MODEL}policy.lora.rank", "4"),
    ),
}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        # Steps of Adam on sums taken in another order: its normalised step amplifies rounding of tiny gradients.
        torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def assert_same_optimizer(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for number, entries in expected["state"].items():
        for name, value in entries.items():
            mine = found["state"][number][name]
            assert (mine.shape, mine.dtype) == (value.shape, value.dtype), f"{name} of parameter {number}"
            # By the size of each tensor: squares of gradients may be 1e-13, of which no absolute error says anything.
            error = torch.linalg.vector_norm(mine - value)
            assert error <= 1e-4 * torch.linalg.vector_norm(value), f"{name} of parameter {number}"


@pytest.mark.slow
@pytest.mark.parametrize("case", STAGES)
def test_two_processes_learn_what_one_does(case: str, home: Home, tmp_path: Path) -> None:
    stage, settings = STAGES[case]
    alone = run(home, stage, tmp_path / "alone", 1, *settings)
    expected = last_checkpoint(tmp_path / "alone")
    for name, strategy in STRATEGIES.items():
        several = (f"{MODEL}update.microbatch_size", "2") if stage == "pairwise_ppo" else ()
        assert_close(run(home, stage, tmp_path / name, 2, *settings, *strategy, *several), alone)
        found = last_checkpoint(tmp_path / name)
        assert found["run_state"].keys() == expected["run_state"].keys(), name
        assert_same_optimizer(found["optimizer_states"][0], expected["optimizer_states"][0])


@pytest.mark.slow
def test_groups_of_processes_that_have_all_shards_each_learn_what_one_process_does(home: Home, tmp_path: Path) -> None:
    """Two groups of two: what both have counts once in a checkpoint, and is read by both."""
    alone = run(home, "pairwise_ppo", tmp_path / "alone", 1, *PLANNED)
    groups = ("--trainer.strategy", "lightning_modules.strategies.FSDP2Strategy")
    groups += ("--trainer.strategy.init_args.replicas", "2", f"{MODEL}update.microbatch_size", "2")
    whole = run(home, "pairwise_ppo", tmp_path / "whole", 4, *PLANNED, *groups)
    assert_close(whole, alone)
    optimizers = [last_checkpoint(tmp_path / name)["optimizer_states"][0] for name in ("whole", "alone")]
    assert_same_optimizer(*optimizers)
    parts = (*PLANNED, *groups, "--checkpoint.sharded", "true")
    run(home, "pairwise_ppo", tmp_path / "parts", 4, *parts, callback(Interrupt, batch=3), ends_with=1)
    assert differences(whole, run(home, "pairwise_ppo", tmp_path / "parts", 4, *parts, "--ckpt_path", "last")) == []


@pytest.mark.slow
@pytest.mark.parametrize("in_parts", ["false", "true"])
@pytest.mark.parametrize("strategy", SHARDED)
def test_pairwise_ppo_in_shards_is_resumed_exactly_and_exported(
    strategy: str, in_parts: str, home: Home, tmp_path: Path
) -> None:
    """Sampled responses end at different places on the two ranks, which have to go on together all the same."""
    settings = (*STRATEGIES[strategy], "--checkpoint.sharded", in_parts, f"{MODEL}update.microbatch_size", "2")
    whole = run(home, "pairwise_ppo", tmp_path / "whole", 2, *settings)
    run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, callback(Interrupt, batch=3), ends_with=1)
    resumed = run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, "--ckpt_path", "last")
    assert differences(whole, resumed) == []
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []
    assert same_ledger(tmp_path / "whole", tmp_path / "cut")
    export(tmp_path / "whole" / "checkpoints" / LAST, tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "whole" / "model"):
        policy = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for name, weight in policy.items():
            assert torch.equal(weight, whole[f"policy.{name}"]), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHARDED)
def test_an_uneven_validation_in_shards_ends(strategy: str, home: Home, tmp_path: Path) -> None:
    """Seven prompts in batches of four: in the last one a process has two rows, the other one, and a row no anchor."""
    rows = [json.loads(line) for line in home.data("prompts.validation").read_text().splitlines()][:7]
    del rows[0]["anchor"]
    path = tmp_path / "seven.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("--trainer.limit_val_batches", "1.0", "--data.init_args.validation_batch_size", "4")
    settings += ("--data.init_args.validation.path", str(path), f"{MODEL}update.microbatch_size", "1")
    settings += (f"{MODEL}anchors", "ReferenceSamples", f"{MODEL}iterations", "1")
    run(home, "pairwise_ppo", tmp_path / "run", 2, *STRATEGIES[strategy], *settings)
    (line,) = ValidationLog(tmp_path / "run").read()
    assert len(ValidationLog(tmp_path / "run").rows(line["batch"])) == 7


@pytest.mark.slow
@pytest.mark.parametrize("sharded", SHARDED)
@pytest.mark.parametrize("order", [(2, 1, 2), (1, 2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    order: tuple[int, ...], sharded: str, home: Home, tmp_path: Path
) -> None:
    """Two batches with each number: the same data, weights and optimizer state as in one go.

    Two processes that come first leave their checkpoint in parts.
    """
    in_parts = ("--checkpoint.sharded", "true") if order[0] == 2 else ()
    stage, settings = "generative_reward", ("--checkpoint.every_n_batches", "2", "--trainer.max_steps", "6")
    whole = run(home, stage, tmp_path / "whole", 1, *settings)
    resume: tuple[str, ...] = ()
    for batch, processes in zip((3, 5, None), order, strict=True):
        strategy = (*STRATEGIES[sharded], *in_parts) if processes == 2 else ()
        stop = (callback(Interrupt, batch=batch),) if batch else ()
        done = int(batch is not None)
        found = run(home, stage, tmp_path / "run", processes, *settings, *strategy, *resume, *stop, ends_with=done)
        resume = ("--ckpt_path", "last")
    assert_close(found, whole)
    one, other = (last_checkpoint(tmp_path / name)["optimizer_states"][0] for name in ("whole", "run"))
    assert_same_optimizer(other, one)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_run_with_its_error(
    failing: int, strategy: str, home: Home, tmp_path: Path
) -> None:
    settings = (*STRATEGIES[strategy], f"{MODEL}update.microbatch_size", "2")
    stop = callback(Interrupt, batch=2, moment="judge", rank=failing)
    done = launch(home, "pairwise_ppo", tmp_path, 2, *settings, stop)
    assert done.returncode != 0
    assert f"rank {failing} of 2, batch 3, judge failed: InterruptedRun: judge 2" in done.stderr
    other = 1 - failing
    said = f"rank {other} of 2, batch 3, judge ended because another process failed first. rank {failing} of 2, batch 3"
    assert f"prl: {said}, judge: InterruptedRun: judge 2" in done.stderr
    found = sorted(path.name for path in (tmp_path / "failures").iterdir())
    assert found == ["rank0.txt", "rank1.txt"]
    # Started again, it forgets them, and goes on.
    run(home, "pairwise_ppo", tmp_path, 2, *settings, "--ckpt_path", "last")
    assert list((tmp_path / "failures").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHARDED)
@pytest.mark.parametrize("case", ["adapters", "previous policy", "own critic, bfloat16"])
def test_what_samples_from_shards_is_resumed_exactly(case: str, strategy: str, home: Home, tmp_path: Path) -> None:
    settings = {
        "adapters": (f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.kind", "adapter"),
        "previous policy": (f"{MODEL}anchors", "PreviousPolicy", f"{MODEL}anchors.init_args.every", "2"),
        "own critic, bfloat16": ("--trainer.precision", "bf16-mixed"),
    }[case]
    settings = (*settings, *STRATEGIES[strategy], f"{MODEL}update.microbatch_size", "2")
    whole = run(home, "pairwise_ppo", tmp_path / "whole", 2, *settings)
    run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, callback(Interrupt, batch=3), ends_with=1)
    resumed = run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, "--ckpt_path", "last")
    assert differences(whole, resumed) == []
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
@pytest.mark.parametrize(
    "kind", ["cut", "cut, cached", "on the policy's base model", "on the policy's base model, cached"]
)
def test_a_judge_in_shards_judges_as_ever(kind: str, strategy: str, home: Home, tmp_path: Path) -> None:
    """Few padded tokens in a pass, so that the two processes have different numbers of passes to make."""
    settings: tuple[str, ...] = (*PLANNED, f"{MODEL}judge_gate.mode", "off")
    judge: dict[str, Any] = {"path": str(home.judge), "max_batch_tokens": 96}
    if "cached" in kind:
        judge["prefix_cache_gib"] = 0.01
    if "cut" in kind:
        settings += (f"{MODEL}resources.shard_judges", "true")
    else:
        lora = json.dumps({"rank": 4})
        home.run("generative_reward", tmp_path / "judge", f"{MODEL}model.lora", lora, f"{MODEL}passport_pairs", "0")
        export(tmp_path / "judge" / "checkpoints" / LAST, tmp_path / "apart", merge=False)
        settings += (f"{MODEL}policy.lora", lora, f"{MODEL}critic.kind", "adapter")
        judge |= {"path": str(tmp_path / "apart"), "share_base_model": True}
    settings += (f"{MODEL}reward", json.dumps({"class_path": "GenerativeJudge", "init_args": judge}))
    alone = run(home, "pairwise_ppo", tmp_path / "alone", 1, *settings)
    assert_close(run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, *STRATEGIES[strategy]), alone)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_a_rollout_is_the_same_gathered_or_pass_by_pass(strategy: str, home: Home, tmp_path: Path) -> None:
    settings = (*STRATEGIES[strategy], f"{MODEL}update.microbatch_size", "2", f"{MODEL}iterations", "2")
    settings += (f"{MODEL}sampling.max_new_tokens", "12", f"{MODEL}anchors", "ReferenceSamples")
    found = {}
    for way in ("always", "never"):
        found[way] = run(home, "pairwise_ppo", tmp_path / way, 2, *settings, f"{MODEL}resources.gather_rollouts", way)
    run(home, "pairwise_ppo", tmp_path / "in turns", 2, *settings, callback(InTurns))
    done = launch(home, "pairwise_ppo", tmp_path / "auto", 2, *settings)
    assert "weights are put together once per rollout" in done.stdout + done.stderr
    for way in ("never", "in turns", "auto"):
        assert differences(found["always"], last_checkpoint(tmp_path / way)["state_dict"]) == [], way


@pytest.mark.slow
def test_every_strategy_validates_what_another_one_wrote(home: Home, tmp_path: Path) -> None:
    run(home, "supervised", tmp_path, 2, *STRATEGIES["zero3"], "--checkpoint.sharded", "true")
    settings = ("--data.init_args.validation_batch_size", "4", "--ckpt_path", "last")
    losses = {}
    for name, strategy in {"alone": (), **STRATEGIES}.items():
        processes = 1 if name == "alone" else 2
        done = launch(home, "supervised", tmp_path, processes, *settings, *strategy, verb="validate")
        assert done.returncode == 0, done.stderr[-3000:]
        (line,) = [line for line in done.stdout.splitlines() if "val/loss" in line]
        losses[name] = float(re.findall(r"\d+\.\d+", line)[0])
    assert losses == pytest.approx(dict.fromkeys(losses, losses["alone"]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHARDED)
def test_a_signal_to_one_process_saves_the_parts_of_both(strategy: str, home: Home, tmp_path: Path) -> None:
    settings = (*STRATEGIES[strategy], f"{MODEL}update.microbatch_size", "2", "--checkpoint.sharded", "true")
    settings += ("--checkpoint.every_n_batches", "100")
    whole = run(home, "pairwise_ppo", tmp_path / "whole", 2, *settings)
    stop = callback(Interrupt, batch=2, moment="rollout", number=int(signal.SIGTERM), rank=1)
    run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, stop, ends_with=128 + signal.SIGTERM)
    assert batches_in(tmp_path / "cut") == 2
    resumed = run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, "--ckpt_path", "last")
    assert differences(whole, resumed) == []
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []


@pytest.mark.slow
def test_two_nodes_under_torchrun_learn_what_one_process_does(home: Home, tmp_path: Path) -> None:
    alone = run(home, "pairwise_ppo", tmp_path / "alone", 1, *PLANNED)
    settings = (*PLANNED, *STRATEGIES["fsdp2"], "--trainer.limit_val_batches", "0")
    settings += ("--trainer.devices", "1", "--trainer.num_nodes", "2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    arguments = home.arguments("pairwise_ppo", tmp_path / "nodes", *settings)
    nodes = [
        subprocess.Popen([*command, "--node-rank", str(node), "-m", "prl", *arguments], cwd=CONFIGS.parent)
        for node in range(2)
    ]
    try:
        assert [node.wait() for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.terminate()  # torchrun then ends the process that it started, which is in a session of its own
    assert_close(last_checkpoint(tmp_path / "nodes")["state_dict"], alone)
