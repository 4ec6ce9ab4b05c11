"""`prl export` writes from a checkpoint what the end of the run wrote, and it loads in a process without prl."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lightning_modules.callbacks.run_checkpoint import LAST
from prl.cli import RunError, main
from prl.commands.export import export
from tests.integration.runs import Home

LORA = json.dumps({"rank": 2, "alpha": 4})
STAGES = {
    "supervised": (),
    "generative_reward": (),
    "generative_reward with adapters": ("--model.init_args.model.lora", LORA),
    "bradley_terry": (),
    "pairwise_ppo": (),
}
LOGITS = """
import sys, torch, transformers
kind, folder, out = sys.argv[1:]
model = getattr(transformers, kind).from_pretrained(folder)
assert not any(name.partition(".")[0] in ("prl", "lightning") for name in sys.modules)
transformers.AutoTokenizer.from_pretrained(folder)
torch.save(model(torch.tensor([[5, 6, 7, 8]])).logits, out)
"""


@pytest.mark.parametrize("case", STAGES)
def test_the_checkpoint_gives_the_folder_of_the_finished_run(case, home: Home, tmp_path: Path) -> None:
    stage = case.partition(" ")[0]
    home.run(stage, tmp_path / "run", *STAGES[case])
    folder = tmp_path / "exported"
    main(["export", "--checkpoint", str(tmp_path / "run" / "checkpoints" / LAST), "--output", str(folder)])
    finished = tmp_path / "run" / "model"
    # the passport is a measurement of the finished run, not a part of the model
    written = {path.name for path in finished.iterdir()} - {"rm_passport.json"}
    assert {path.name for path in folder.iterdir()} == written
    for name in written:
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    kind = AutoModelForSequenceClassification if stage == "bradley_terry" else AutoModelForCausalLM
    command = [sys.executable, "-c", LOGITS, kind.__name__, str(folder), str(tmp_path / "logits.pt")]
    subprocess.run(command, cwd=tmp_path, env={"PATH": "", "PYTHONSAFEPATH": "1"}, check=True)
    here = kind.from_pretrained(finished)(torch.tensor([[5, 6, 7, 8]])).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), here, atol=1e-6, rtol=0)


def test_what_cannot_be_exported_is_named(home: Home, tmp_path: Path) -> None:
    run = tmp_path / "run"
    home.run("supervised", run)
    checkpoint = run / "checkpoints" / LAST
    with pytest.raises(RunError, match="nowhere.ckpt does not exist"):
        export(tmp_path / "nowhere.ckpt", tmp_path / "out")
    with pytest.raises(RunError, match="holds something already"):
        export(checkpoint, run)
    with pytest.raises(RunError, match=r"no config at .*give the config.yaml"):
        export(checkpoint, tmp_path / "out", tmp_path / "config.yaml")
    judge = tmp_path / "judge"
    home.run("generative_reward", judge)
    with pytest.raises(ValueError, match="was written by SupervisedModule, this run trains GenerativeRewardModule"):
        export(checkpoint, tmp_path / "out", judge / "config.yaml")
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(RunError, match="is torn"):
        export(torn, tmp_path / "out", run / "config.yaml")
    assert not (tmp_path / "out").exists()
