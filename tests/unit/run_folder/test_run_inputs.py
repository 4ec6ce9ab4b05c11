"""What a run reads and no checkpoint holds is known by its content, and a resume on anything else is refused."""

import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from lightning_modules.callbacks import RunInputs
from prl.config import ModelSource
from prl.data import DataSource
from prl.judge.generative import GenerativeJudge
from prl.rewards.rule import RuleReward
from prl.rewards.weighted import WeightedReward
from prl.run_folder.inputs import changed_inputs, folder_inputs, model_inputs
from tests.helpers.tiny import write_tiny_model

ROWS = [{"prompt": f"Sort {word}", "anchor": word} for word in ("cab", "fed", "ihg", "lkj")]


def model_folder(path: Path, *more: str) -> Path:
    path.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", *more):
        (path / name).write_bytes(name.encode())
    return path


def test_every_file_that_is_read_of_a_model_counts_and_no_other(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "pytorch_model.bin", "README.md", "rm_passport.json", "optimizer.pt")
    before = folder_inputs("m", str(folder))
    assert before["m/model.safetensors"] == hashlib.sha256(b"model.safetensors").hexdigest()[:32]
    told = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert set(before) == {f"m/{name}" for name in told}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        changed = changed_inputs(before, folder_inputs("m", str(folder)))
        assert list(changed) == ([f"m/{path.name}"] if path.name in told else [])
        path.write_bytes(content)
    (folder / "model.safetensors").unlink()
    changed = changed_inputs(before, folder_inputs("m", str(folder)))
    assert changed["m/model.safetensors"].endswith("at the checkpoint, not there now")
    assert changed["m/pytorch_model.bin"].startswith("not there at the checkpoint")


def test_adapters_count_with_the_model_under_them_and_a_tokenizer_without_weights_beside_it(tmp_path: Path) -> None:
    base, adapters = model_folder(tmp_path / "base"), tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base", "peft_type": "LORA"}))
    (adapters / "adapter_model.safetensors").write_bytes(b"a")
    found = model_inputs("m", ModelSource(path=str(adapters), tokenizer=str(base)))
    assert {"m/adapter_model.safetensors", "m.base/model.safetensors", "m.tokenizer/tokenizer.json"} <= set(found)
    assert "m.tokenizer/model.safetensors" not in found
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"g")
    assert set(model_inputs("m", ModelSource(path=str(gguf)))) == {"m/m.gguf"}


class World:
    """A stage of PPO and its data, whose files a test may change."""

    def __init__(self, root: Path) -> None:
        self.root, self.prompts = root, root / "prompts.jsonl"
        self.write(ROWS)
        for seed, name in enumerate(("policy", "reference", "judge")):
            write_tiny_model(root / name, seed=seed)

    def write(self, rows: list[dict[str, str]]) -> None:
        self.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def callback(self, accept: bool | list[str] = False, **settings: Any) -> tuple[RunInputs, Any, Any]:
        """Build the callback that compares, as a trainer has it after set-up."""
        judge = WeightedReward(
            {"judge": GenerativeJudge(str(self.root / "judge")), "rule": RuleReward()},
            {"judge": 1.0, "rule": 0.0},
        )
        policy, reference = (ModelSource(path=str(self.root / name)) for name in ("policy", "reference"))
        module = PairwisePPOModule(policy, judge, reference=reference, max_prompt_length=64)
        data = PromptDataModule(DataSource(str(self.prompts)), cache=False, **{"batch_size": 2, **settings})
        trainer: Any = SimpleNamespace(
            **{
                "is_global_zero": True,
                "fast_dev_run": False,
                "world_size": 1,
                "limit_val_batches": 1.0,
            },
            **{"lightning_module": module, "datamodule": data, "default_root_dir": self.root, "ckpt_path": "x.ckpt"},
            **{"state": SimpleNamespace(fn="fit"), "strategy": SimpleNamespace(broadcast=lambda value: value)},
        )
        data.trainer = trainer
        data.setup("fit")
        return RunInputs(accept), trainer, module


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


CHANGES = {
    "data.train": lambda world: world.write([*ROWS[:3], {**ROWS[3], "anchor": "jkl"}]),
    "model.policy": lambda world: appended(world.root / "policy" / "tokenizer_config.json"),
    "model.reference": lambda world: appended(world.root / "reference" / "model.safetensors"),
    "model.reward.1": lambda world: appended(world.root / "judge" / "model.safetensors"),
}


def test_a_resume_on_other_inputs_is_refused_or_accepted_and_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    callback, trainer, module = world.callback(validation_share=0.5)
    callback.on_fit_start(trainer, module)
    checkpoint: dict[str, Any] = {}
    callback.on_save_checkpoint(trainer, module, checkpoint)
    checkpoint = json.loads(json.dumps(checkpoint))  # plain values

    def resume(accept: bool | list[str] = False, **settings: Any) -> None:
        callback, trainer, module = world.callback(accept, **{"validation_share": 0.5, **settings})
        caplog.clear()
        callback.on_load_checkpoint(trainer, module, checkpoint)

    resume()
    assert caplog.messages == []
    for name, value in (("batch_size", 1), ("seed", 1), ("group_by_length", False), ("validation_share", 0.4)):
        with pytest.raises(ValueError, match=rf"- data.{name}: .* at the checkpoint, {value} now\n.*\[data.{name}"):
            resume(**{name: value})
    for name, change in CHANGES.items():
        change(world)
        others = [each for each in CHANGES if each != name]
        with pytest.raises(ValueError, match=rf"- {name}.*: sha256 .*… at the checkpoint, sha256 .*… now\n"):
            resume(others)
        with pytest.raises(ValueError, match=f"names '{name[:-1]}', which is no input of this run; its inputs are"):
            resume([name[:-1]])  # half a name accepts nothing
    callback, trainer, module = world.callback()
    trainer.state.fn = "validate"
    callback.on_load_checkpoint(trainer, module, checkpoint)  # which may read what it wants
    resume(list(CHANGES))
    assert [name for name in CHANGES if name in caplog.text] == list(CHANGES)
    resume(True)
    assert len(caplog.messages) == len(CHANGES)


def test_a_checkpoint_without_hashes_goes_on_with_a_word(world: World, caplog: pytest.LogCaptureFixture) -> None:
    callback, trainer, module = world.callback()
    with caplog.at_level(logging.WARNING):
        callback.on_load_checkpoint(trainer, module, {})
    assert "whether they changed is not known" in caplog.text
