"""`prl export` writes from a checkpoint what the end of the run wrote, and it loads in a process without prl."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from prl.checkpoints.files import LAST
from prl.checkpoints.resolve import RunError
from prl.cli.commands.export import export
from prl.cli.entry import main
from prl.judge import GenerativeJudge, Judge
from tests.integration.runs import Home, Interrupt, InterruptedRun, callback, differences, state_of

LORA = json.dumps({"rank": 2, "alpha": 4})
STAGES = {
    "supervised": (),
    "generative_reward": (),
    "generative_reward with adapters": ("--model.init_args.model.lora", LORA),
    "bradley_terry": (),
    "pairwise_ppo": (),
}
WITHOUT_PRL = """
import json, sys
sys.modules.update(dict.fromkeys(["prl", "lightning_modules", "datamodules", "lightning"]))  # None: cannot be imported
import torch, transformers
for line in sys.stdin:
    kind, folder, rows, out = json.loads(line)
    model = getattr(transformers, kind).from_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        torch.save([model(torch.tensor([row])).logits[0] for row in rows], out)
    print("done", flush=True)
"""

LogitsWithoutPrl = Callable[[Any, Path, list[list[int]]], list[torch.Tensor]]


@pytest.fixture(scope="module")
def logits_without_prl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogitsWithoutPrl]:
    """Logits of each row of ids alone, read by plain transformers in a process that cannot import prl."""
    out = tmp_path_factory.mktemp("without_prl") / "logits.pt"
    command, environment = [sys.executable, "-c", WITHOUT_PRL], {"PATH": "", "PYTHONSAFEPATH": "1"}
    with subprocess.Popen(
        command, cwd=out.parent, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def read(kind: Any, folder: Path, rows: list[list[int]]) -> list[torch.Tensor]:
            process.stdin.write(json.dumps([kind.__name__, str(folder), rows, str(out)]) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n", "the process without prl ended; see its errors above"
            return torch.load(out)

        yield read
        process.stdin.close()
        assert process.wait(60) == 0


SLOW = {"supervised", "generative_reward"}  # the first is a policy too, the second a judge without adapters


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in STAGES])
def test_the_checkpoint_gives_the_folder_of_the_finished_run(
    case: str, home: Home, tmp_path: Path, logits_without_prl: LogitsWithoutPrl
) -> None:
    stage = case.partition(" ")[0]
    home.run(stage, tmp_path / "run", *STAGES[case])
    folder = tmp_path / "exported"
    main(["export", "--checkpoint", str(tmp_path / "run" / "checkpoints" / LAST), "--output", str(folder)])
    finished = tmp_path / "run" / "model"
    written = {path.name for path in finished.iterdir()}
    assert {path.name for path in folder.iterdir()} == written
    assert {"README.md", "chat_template.jinja"} <= written
    # The same weights have the same passport, so the export of the last checkpoint has it as well.
    assert ("rm_passport.json" in written) == (stage in ("generative_reward", "bradley_terry"))
    for name in written:
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    kind = AutoModelForSequenceClassification if stage == "bradley_terry" else AutoModelForCausalLM
    (found,) = logits_without_prl(kind, folder, [[5, 6, 7, 8]])
    here = kind.from_pretrained(finished)(torch.tensor([[5, 6, 7, 8]])).logits[0]
    torch.testing.assert_close(found, here, atol=1e-6, rtol=0)


def test_an_earlier_checkpoint_gets_no_passport_of_later_weights(home: Home, tmp_path: Path) -> None:
    run = tmp_path / "run"
    home.run("bradley_terry", run)
    weights = torch.load(run / "checkpoints" / LAST, weights_only=True)
    weights["state_dict"] = {name: 0.9 * tensor for name, tensor in weights["state_dict"].items()}
    torch.save(weights, run / "checkpoints" / "earlier.ckpt")
    export(run / "checkpoints" / "earlier.ckpt", tmp_path / "out")
    assert not (tmp_path / "out" / "rm_passport.json").exists()
    assert "## Measured" not in (tmp_path / "out" / "README.md").read_text()


# ---- save, load, merge, load


def rows_of(judge: Judge) -> tuple[list[str], list[str], list[str], list[list[int]]]:
    """Prompts, responses and others; and the ids of each reading, chosen first."""
    prompts = ["copy abc", "reverse xyz", "sort cab", "copy q"]
    a, b = ["abc", "xyz", "abc", "q"], ["abcabc", "zyx", "cab", "qqqqqqqq"]
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    encoder = judge.model.encoder
    if isinstance(judge.model, GenerativeJudge):
        return prompts, a, b, [encoder.compare(*each)[0] for each in zip(messages, a, b, strict=True)]
    rows = [(p, text) for p, *both in zip(messages, a, b, strict=True) for text in both]
    return prompts, a, b, [encoder.encode_response(*row)["ids"] for row in rows]


def margins_of(judge: Judge, logits: list[torch.Tensor]) -> torch.Tensor:
    """Margins of readings from their logits, as anybody would compute them."""
    if isinstance(judge.model, GenerativeJudge):
        first, second = judge.model.encoder.verdict_ids
        return torch.stack([each[-1, first] - each[-1, second] for each in logits])
    rewards = torch.stack([each[0] for each in logits])
    return rewards[0::2] - rewards[1::2]


@pytest.mark.parametrize(
    ("stage", "adapters"),
    [
        pytest.param("generative_reward", True, id="judge, adapters"),
        pytest.param("bradley_terry", False, id="Bradley-Terry"),
        pytest.param("generative_reward", False, id="judge", marks=pytest.mark.slow),
        pytest.param("bradley_terry", True, id="Bradley-Terry, adapters", marks=pytest.mark.slow),
    ],
)
def test_margins_survive_saving_loading_and_merging(
    stage: str,
    adapters: bool,
    home: Home,
    tmp_path: Path,
    logits_without_prl: LogitsWithoutPrl,
    measured: dict[str, float],
) -> None:
    """Save, load, merge, load: the largest change of a margin is below 1e-5 on every way."""
    run = tmp_path / "run"
    overrides = ["--model.init_args.optimization.learning_rate", "0.01", "--model.init_args.passport_pairs", "0"]
    trained = home.run(stage, run, *overrides, *(("--model.init_args.model.lora", LORA) if adapters else ())).model
    kind = AutoModelForSequenceClassification if stage == "bradley_terry" else AutoModelForCausalLM
    labels = {"num_labels": 1} if stage == "bradley_terry" else {}
    judge = Judge.from_pretrained(run / "model", device="cpu")
    prompts, a, b, rows = rows_of(judge)

    def alone(model: Any) -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            return margins_of(judge, [model(torch.tensor([row])).logits[0] for row in rows])

    in_memory = alone(trained.model)
    untrained = alone(kind.from_pretrained(home.policy, **labels))
    assert (in_memory - untrained).abs().max() > 0.1  # otherwise equality would say nothing
    found = {
        "saved": margins_of(judge, logits_without_prl(kind, run / "model", rows)),
        "judge": judge.compare(prompts, a, b).margin_ab,
    }
    judge.save_pretrained(tmp_path / "again")
    found["saved again"] = Judge.from_pretrained(tmp_path / "again", device="cpu").compare(prompts, a, b).margin_ab
    if adapters:
        apart = tmp_path / "apart"
        main(["export", "--checkpoint", str(run / "checkpoints" / LAST), "--output", str(apart), "--adapter-only"])
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in apart.iterdir()}
        assert not (apart / "model.safetensors").exists()
        base = kind.from_pretrained(home.policy, **labels)
        with_adapter = PeftModel.from_pretrained(base, apart)
        found["adapter"] = alone(with_adapter)
        found["merged by peft"] = alone(with_adapter.merge_and_unload())
        found["judge of the adapter"] = Judge.from_pretrained(apart, device="cpu").compare(prompts, a, b).margin_ab
    for name, margins in found.items():
        change = (margins - in_memory).abs().max().item()
        measured[f"margins: {stage}, {'lora' if adapters else 'full'}, {name}"] = change
        assert change < 1e-5, name


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
    with pytest.raises(ValueError, match="no adapters to write alone: model.lora was not set"):
        export(checkpoint, tmp_path / "out", merge=False)
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(RunError, match="is torn"):
        export(torn, tmp_path / "out", run / "config.yaml")
    with pytest.raises(RunError, match="is the folder of a run; give .*last.ckpt"):
        export(run, tmp_path / "out")
    with pytest.raises(RunError, match=r"config.yaml is no .ckpt file; give one such as RUN_DIR"):
        export(run / "config.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_policy_is_exported_without_its_judge(home: Home, tmp_path: Path) -> None:
    run = tmp_path / "run"
    judge = shutil.copytree(home.judge, tmp_path / "judge")
    init = "--model.init_args."
    home.run("pairwise_ppo", run, f"{init}reward.init_args.path", str(judge), f"{init}iterations", "1")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["judge_gate"]["mode"] = "refuse"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.rmtree(judge)
    export(run / "checkpoints" / LAST, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_one_base_model_for_everybody(home: Home, tmp_path: Path) -> None:
    """Policy, reference, critic and judge on one set of frozen weights: it trains, resumes exactly, and is exported."""
    init, lora = "--model.init_args.", ("--model.init_args.policy.lora", LORA)
    home.run("generative_reward", tmp_path / "judge", f"{init}model.lora", LORA, f"{init}passport_pairs", "0")
    apart = tmp_path / "apart"
    export(tmp_path / "judge" / "checkpoints" / LAST, apart, merge=False)
    judge = {"class_path": "GenerativeJudge", "init_args": {"path": str(apart), "share_base_model": True}}
    settings = (
        *lora,
        f"{init}critic.kind",
        "adapter",
        f"{init}reward",
        json.dumps(judge),
        f"{init}judge_gate.mode",
        "off",
        *("--trainer.val_check_interval", "4"),
    )
    module = home.run("pairwise_ppo", tmp_path / "run", *settings).model
    names = {name for name, _ in module.named_parameters()}
    assert not any(name.startswith(("judge.", "reference.")) for name in names)
    (embedding,) = {name for name in names if name.endswith("embed_tokens.weight")}
    assert embedding.startswith("policy.")
    saved = torch.load(tmp_path / "run" / "checkpoints" / LAST, weights_only=True)["state_dict"]
    assert {".default." in name or ".critic." in name or name.startswith("critic.") for name in saved} == {True}
    with pytest.raises(InterruptedRun):
        home.run("pairwise_ppo", tmp_path / "cut", *settings, callback(Interrupt, batch=3))
    home.run("pairwise_ppo", tmp_path / "cut", *settings, "--ckpt_path", "last")
    assert differences(state_of(tmp_path / "run"), state_of(tmp_path / "cut")) == []
    for merge in (True, False):
        export(tmp_path / "run" / "checkpoints" / LAST, tmp_path / f"out-{merge}", merge=merge)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"out-{merge}")
        ids = torch.arange(5, 16)[None]
        with torch.no_grad():
            torch.testing.assert_close(loaded(ids).logits, module.policy(ids).logits, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "out-False" / "critic").exists()
