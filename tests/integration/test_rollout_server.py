"""Pairwise PPO whose responses a server samples."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from prl.checkpoints import sharded as sharded_files
from tests.helpers.rollout_server import serving
from tests.integration.runs import Home, Numbers, callback, find_callback
from tests.integration.test_two_processes import STRATEGIES, launch

MODEL = "--model.init_args."


def asked(server: object, folder: Path) -> tuple[str, ...]:
    settings = {"base_url": f"{server.root}/v1", "folder": str(folder), "retries": 0}  # type: ignore[attr-defined]
    name = "prl.rollouts.server.RolloutServer"
    return (f"{MODEL}sampler", json.dumps({"class_path": name, "init_args": settings}))


def has_policy(server: object, checkpoint: Path) -> bool:
    saved = sharded_files.read(checkpoint)["state_dict"]
    served = server.engine.model.state_dict()  # type: ignore[attr-defined]
    return all(torch.equal(value, saved[f"policy.{name}"]) for name, value in served.items())


def test_each_rollout_is_drawn_from_the_policy_as_it_is(home: Home, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(home.policy, tmp_path / "served"))
    with serving(folder) as server:
        settings = (*asked(server, folder), "--checkpoint.every_n_batches", "1", "--checkpoint.keep", "9")
        cli = home.run("pairwise_ppo", tmp_path / "run", *settings, callback(Numbers))
        checkpoints = tmp_path / "run" / "checkpoints"
        # Four iterations, and a validation after the last one sees what that one has learnt.
        paths = [path for path, _ in server.seen]
        assert paths.count("/collective_rpc") in (4, 5)  # not for each batch of the validation
        last = 3 if paths.count("/collective_rpc") == 4 else 4
        assert has_policy(server, checkpoints / f"batch-{last:06d}.ckpt")
        assert not has_policy(server, checkpoints / "batch-000002.ckpt")
    numbers = find_callback(cli.trainer, Numbers).training
    ratios = [value for each in numbers for name, value in each.items() if name.endswith("first_ratio")]
    assert ratios
    assert ratios == pytest.approx([1.0] * len(ratios), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_a_policy_in_shards_is_served_whole(strategy: str, home: Home, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(home.policy, tmp_path / "served"))
    with serving(folder) as server:
        settings = (*asked(server, folder), "--checkpoint.every_n_batches", "1", "--checkpoint.keep", "9")
        settings += (*STRATEGIES[strategy], f"{MODEL}update.microbatch_size", "2")
        done = launch(home, "pairwise_ppo", tmp_path / "run", 2, *settings)
        assert done.returncode == 0, done.stderr[-3000:]
        assert [path for path, _ in server.seen].count("/collective_rpc") == 4
        assert has_policy(server, tmp_path / "run" / "checkpoints" / "batch-000003.ckpt")
