"""Collectives with a process group that speaks for one kind of device, as NCCL does."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import Trainer, seed_everything

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from lightning_modules.callbacks import RandomStates, RunLedger
from lightning_modules.judge_validation import _of_all_ranks
from prl.advantages.gae import GAE
from prl.config import ModelSource, Optimization, Sampling, Update
from prl.data import DataSource
from prl.distributed import gathered, give_from_first, global_max, global_sum, sum_on_first
from prl.judge import GenerativeJudge
from tests.helpers.elsewhere import ELSEWHERE, twins
from tests.integration.runs import Home


def test_a_tensor_of_another_device_goes_there_and_back() -> None:
    value = torch.tensor([1.5, -2.0], requires_grad=True)
    with twins(ELSEWHERE.type):
        with pytest.raises(RuntimeError, match="no backend for tensors on cpu"):
            dist.all_reduce(value.detach())
        total, largest = global_sum(value), global_max(value)
        kept = value.detach().clone()
        assert sum_on_first(kept) is kept  # in place, wherever it travelled
        given = give_from_first(value.detach().clone())
        objects = gathered({"row": 1})
        readings = _of_all_ranks([torch.ones(2, 3), torch.zeros(1, 3)])  # of a judge's validation
    assert [each.device.type for each in (total, largest, kept, given)] == ["cpu"] * 4
    assert total.tolist() == kept.tolist() == [3.0, -4.0]
    assert largest.tolist() == given.tolist() == [1.5, -2.0]
    assert not total.requires_grad
    assert readings.tolist() == 2 * [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    assert objects == [{"row": 1}, {"row": 1}]


def train(home: Home, folder: Path) -> dict[str, torch.Tensor]:
    """Two iterations, and a validation after each."""
    seed_everything(0, verbose=False)
    module = PairwisePPOModule(
        ModelSource(path=str(home.policy)),
        GenerativeJudge(str(home.judge)),
        iterations=2,
        max_prompt_length=64,
        sampling=Sampling(max_new_tokens=5),
        update=Update(microbatch_size=3, minibatches=2),
        advantage=GAE(whiten=False),  # an unbiased variance knows twins from one process
        optimization=Optimization(learning_rate=1e-3),
    )
    settings: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        callbacks=[RandomStates(), RunLedger()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        val_check_interval=1,
        limit_val_batches=1,
        default_root_dir=folder,
        **settings,
    )
    train, validation = (DataSource(str(home.data(f"prompts.{split}"))) for split in ("train", "validation"))
    trainer.fit(module, datamodule=PromptDataModule(train, validation, batch_size=6))
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")  # as prl's command line does
def test_ppo_hands_a_process_group_tensors_of_its_device_only(home: Home, tmp_path: Path) -> None:
    with twins(ELSEWHERE.type) as group:
        found = train(home, tmp_path / "twins")
        assert group.calls > 100
    alone = train(home, tmp_path / "alone")  # whoever has a twin learns what it learns alone, to the last bit
    assert found.keys() == alone.keys()
    assert not [name for name in alone if not torch.equal(found[name], alone[name])]
