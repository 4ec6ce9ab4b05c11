"""Every stage from its shipped config: trains what it should, saves what it should, and the result loads elsewhere."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prl.cli.app import PrlCLI, run_stage
from tests.integration.runs import CONFIGS, FirstWeights, Home, Numbers, callback, find_callback, last_checkpoint

MODEL = "--model.init_args."
CASES = {
    "supervised": ("supervised", ()),
    "generative_reward": ("generative_reward", ()),
    "generative_reward_random_order": ("generative_reward", (f"{MODEL}order", "random", f"{MODEL}text_coef", "0")),
    "generative_reward_lora": ("generative_reward", ("--model.init_args.model.lora.rank", "4")),
    "bradley_terry": ("bradley_terry", ()),
    "preference": ("preference", ()),
    "preference_lora": ("preference", ("--model.init_args.model.lora.rank", "4")),
    "ppo_own_critic": ("pairwise_ppo", ()),
    "ppo_shared_critic": ("pairwise_ppo", (f"{MODEL}critic.kind", "shared")),
    "ppo_lora": ("pairwise_ppo", (f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.model.path", "POLICY")),
    "ppo_lora_shared_critic": ("pairwise_ppo", (f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.kind", "shared")),
    "ppo_lora_adapter_critic": ("pairwise_ppo", (f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.kind", "adapter")),
    "ppo_bradley_terry_judge": (
        "pairwise_ppo",
        (f"{MODEL}reward", "prl.judge.BradleyTerryJudge", f"{MODEL}reward.init_args.path", "BRADLEY_TERRY"),
    ),
}

SLOW = {
    "generative_reward_random_order",
    "generative_reward_lora",  # as preference_lora
    "ppo_lora_shared_critic",
    "ppo_bradley_terry_judge",
}


def overrides_of(case: str, home: Home) -> tuple[str, list[str]]:
    stage, overrides = CASES[case]
    places = {"POLICY": str(home.policy), "BRADLEY_TERRY": str(home.bradley_terry)}
    return stage, [places.get(word, word) for word in overrides]


def is_frozen(case: str, name: str) -> bool:
    """Return whether training must not change a parameter of this name."""
    if name.startswith(("reference.", "reward.")):
        return True
    adapted = "lora" in case and name.startswith(("policy.", "model."))
    return adapted and "lora_" not in name


@dataclass(frozen=True)
class Trained:
    case: str
    stage: str
    overrides: list[str]
    run: Path
    cli: PrlCLI


@pytest.fixture(
    scope="module", params=[pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES]
)
def trained(request: pytest.FixtureRequest, home: Home, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Four batches of a stage with two validations."""
    stage, overrides = overrides_of(request.param, home)
    run = tmp_path_factory.mktemp(request.param)
    watchers = [callback(FirstWeights), callback(Numbers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["prl"])
        cli = home.run(stage, run, *watchers, "--trainer.val_check_interval", "2", *overrides)
    return Trained(request.param, stage, overrides, run, cli)


def test_stage_moves_what_it_trains_and_nothing_else(trained: Trained) -> None:
    module = trained.cli.model
    parameters = dict(module.named_parameters(remove_duplicate=False))
    before = find_callback(trained.cli.trainer, FirstWeights).weights
    assert parameters.keys() == before.keys()
    for name, parameter in parameters.items():
        frozen = is_frozen(trained.case, name)
        assert parameter.requires_grad is not frozen, name
        assert torch.equal(parameter, before[name]) is frozen, f"{name} {'moved' if frozen else 'did not move'}"
    if trained.stage == "pairwise_ppo":
        assert not module.reward.model.training
        assert module.reference is None if "lora" in trained.case else not module.reference.training


def test_checkpoint_holds_what_is_trained_and_nothing_else(trained: Trained) -> None:
    names = {name for name, _ in trained.cli.model.named_parameters(remove_duplicate=False)}
    saved = last_checkpoint(trained.run)["state_dict"].keys()
    assert saved == {name for name in names if not is_frozen(trained.case, name)}


def test_validate_repeats_the_last_validation_of_the_run(trained: Trained, home: Home) -> None:
    numbers = find_callback(trained.cli.trainer, Numbers)
    assert (len(numbers.training), len(numbers.validation)) == (4, 2)
    again = home.run(trained.stage, trained.run, *trained.overrides, "--ckpt_path", "last", verb="validate")
    validated = {name: float(value) for name, value in again.trainer.callback_metrics.items()}
    assert validated == numbers.validation[-1]  # the same weights, data and draws


def test_export_loads_with_plain_transformers(trained: Trained) -> None:
    assert_export_is(trained.cli.model, trained.stage, trained.run / "model")


def assert_export_is(module: Any, stage: str, folder: Path) -> None:
    """Check that the folder holds the trained weights for plain transformers, adapters merged."""
    auto_class = AutoModelForSequenceClassification if stage == "bradley_terry" else AutoModelForCausalLM
    loaded, report = auto_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("reverse abc\n", return_tensors="pt")["input_ids"]
    trained = module.policy if stage == "pairwise_ppo" else module.model
    with torch.no_grad():
        # Adapters are merged in float32, which rounds once more than adding their output does.
        torch.testing.assert_close(loaded(ids).logits, trained(ids).logits, rtol=1e-4, atol=1e-5)


# ---- precision and memory

HALF = ("--model.init_args.model.dtype", "bfloat16")
LORA = ("--model.init_args.model.lora.rank", "4")
SAVING = ("--model.init_args.model.gradient_checkpointing", "true")
PRECISIONS = {
    "judge, adapters on bfloat16": ("generative_reward", (*HALF, *LORA), torch.bfloat16),
    "judge, bf16-mixed, checkpointing, LoRA": (
        "generative_reward",
        ("--trainer.precision", "bf16-mixed", *LORA, *SAVING),
        torch.float32,
    ),
    "Bradley-Terry, adapters on bfloat16": ("bradley_terry", (*HALF, *LORA, *SAVING), torch.bfloat16),
    "Bradley-Terry, bf16-mixed": ("bradley_terry", ("--trainer.precision", "bf16-mixed"), torch.float32),
}


SLOW_PRECISIONS = {"judge, adapters on bfloat16", "Bradley-Terry, bf16-mixed"}  # the other two have all of it


@pytest.mark.parametrize(
    ("stage", "overrides", "dtype"),
    [
        pytest.param(*each, id=name, marks=[pytest.mark.slow] * (name in SLOW_PRECISIONS))
        for name, each in PRECISIONS.items()
    ],
)
def test_half_precision(stage: str, overrides: tuple, dtype: torch.dtype, home: Home, tmp_path: Path) -> None:
    cli = home.run(
        stage, tmp_path, *overrides, callback(Numbers), "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"
    )
    numbers = find_callback(cli.trainer, Numbers)
    assert (len(numbers.training), len(numbers.validation)) == (2, 1)
    assert all(math.isfinite(value) for each in numbers.training + numbers.validation for value in each.values())
    assert {p.dtype for p in cli.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in cli.model.parameters() if not p.requires_grad} <= {dtype}
    with torch.no_grad():
        batches = list(cli.datamodule.val_dataloader())
        verdicts = [cli.model.verdict(batch) for batch in batches]
    assert {each.margin_ab.dtype for each in verdicts} == {torch.float32}
    towards = torch.cat([(2 * b["targets"] - 1) * v.win_logit for b, v in zip(batches, verdicts, strict=True)])
    # Validated as it will judge: in the type of its weights, not in that of mixed precision.
    assert numbers.validation[0]["val/margin"] == pytest.approx(float(towards.mean()), rel=1e-4, abs=1e-5)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").dtype == dtype


DOUBLE = {
    "ppo": ("pairwise_ppo", ()),
    "ppo, four responses, adapters": (
        "pairwise_ppo",
        (f"{MODEL}sampling.per_prompt", "4", f"{MODEL}update.microbatch_size", "8", f"{MODEL}update.packed", "on",
         f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.kind", "adapter"),
    ),
    "judge": ("generative_reward", ()),
    "Bradley-Terry": ("bradley_terry", ()),
    "DPO": ("preference", ()),
}  # fmt: skip
SLOW_DOUBLE = {"ppo", "judge", "Bradley-Terry"}


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [pytest.param(*given, id=name, marks=[pytest.mark.slow] * (name in SLOW_DOUBLE)) for name, given in DOUBLE.items()],
)
def test_double_precision(stage: str, overrides: tuple, home: Home, tmp_path: Path) -> None:
    """Double precision has other draws, so rollouts differ; losses on equal pairs agree with single precision."""
    length = (f"{MODEL}iterations", "2") if stage == "pairwise_ppo" else ("--trainer.max_steps", "2")
    short = (*overrides, *length, "--trainer.val_check_interval", "2", callback(Numbers))
    found = {}
    for precision in ("64-true",) if stage == "pairwise_ppo" else ("32-true", "64-true"):
        cli = home.run(stage, tmp_path / precision, *short, "--trainer.precision", precision)
        numbers = find_callback(cli.trainer, Numbers)
        assert (len(numbers.training), len(numbers.validation)) == (2, 1)
        assert all(math.isfinite(value) for each in numbers.training + numbers.validation for value in each.values())
        found[precision] = {**numbers.training[0], **numbers.validation[0]}
    assert {parameter.dtype for parameter in cli.model.parameters()} == {torch.float64}
    if stage == "pairwise_ppo":
        assert numbers.training[1]["policy/first_ratio"] == 1
        return
    told = [name for name in found["32-true"] if "loss" in name or name in ("val/margin", "val/nll", "logps/chosen")]
    assert len(told) > 1
    single, double = ([each[name] for name in told] for each in found.values())
    assert double == pytest.approx(single, rel=1e-4, abs=1e-6)


TRUE = ("--trainer.precision", "bf16-true")
REFUSED = {
    "ppo, everything in bfloat16": ("pairwise_ppo", TRUE, "trainer.precision is bf16-true, which would round"),
    "supervised, everything in bfloat16": ("supervised", TRUE, "trainer.precision is bf16-true, which would round"),
    "judge, everything in float16": (
        "generative_reward",
        ("--trainer.precision", "16-true"),
        "trainer.precision is 16-true, which would round",
    ),
    "judge, weights": ("generative_reward", HALF, "the model is to learn in bfloat16, where most steps are rounded"),
    "ppo, policy": (
        "pairwise_ppo",
        ("--model.init_args.policy.dtype", "bfloat16"),
        "the policy is to learn in bfloat1",
    ),
    "ppo, critic": (
        "pairwise_ppo",
        ("--model.init_args.critic.model", '{"path": "POLICY", "dtype": "float16"}'),
        "the critic is to learn in float16",
    ),
}


@pytest.mark.parametrize(("stage", "overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_learn_is_refused(stage: str, overrides: tuple, message: str, home: Home, tmp_path: Path) -> None:
    given = [each.replace("POLICY", str(home.policy)) for each in overrides]
    with pytest.raises(ValueError, match=message):
        home.run(stage, tmp_path, *given)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["own critic", "shared"])
def test_ppo_with_gradient_checkpointing_learns_the_same(shared: bool, home: Home, tmp_path: Path) -> None:
    critic = [f"{MODEL}critic.kind", "shared"] if shared else [f"{MODEL}critic.model.path", str(home.policy)]
    saving = [f"{MODEL}policy.gradient_checkpointing", "true"]
    saving += [] if shared else [f"{MODEL}critic.model.gradient_checkpointing", "true"]
    runs = {"plain": [], "saving": saving}
    short = (f"{MODEL}iterations", "2", "--trainer.limit_val_batches", "0")
    for name, more in runs.items():
        home.run("pairwise_ppo", tmp_path / name, *short, *critic, *more)
    plain, saved = (last_checkpoint(tmp_path / name)["state_dict"] for name in runs)
    for name, weight in plain.items():
        torch.testing.assert_close(saved[name], weight, atol=1e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


# ---- configuration


def is_complete(path: Path) -> bool:
    """Whether a config names its module and its data; an overlay may change one of them."""
    found = yaml.safe_load(path.read_text())
    return all("class_path" in found.get(part, {}) for part in ("model", "data"))


COMPLETE = [path for path in sorted(CONFIGS.rglob("*.yaml")) if is_complete(path)]
# Those of rounds are for another command, and test_rounds_command.py reads them.
OVERLAYS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path not in COMPLETE and path.parent.name != "rounds"]


def printed_config(capsys: pytest.CaptureFixture, *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ending:
        run_stage(["fit", *args, "--print_config"])
    assert ending.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def contains(whole: Any, part: Any) -> bool:
    """Whether every value of `part` stands in `whole`; class paths may be written in full."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part or (isinstance(part, str) and str(whole).endswith(f".{part}"))


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_config_parses_and_prints_itself(path: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    printed = printed_config(capsys, "--config", str(path))
    assert contains(printed, yaml.safe_load(path.read_text()))
    copy = tmp_path / "printed.yaml"
    copy.write_text(yaml.safe_dump(printed))
    assert printed_config(capsys, "--config", str(copy)) == printed


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_overlay_goes_on_top_of_a_config(path: Path, capsys: pytest.CaptureFixture) -> None:
    base, *more = (Path(each) for each in re.findall(r"--config (\S+)", path.read_text()))  # the command in its head
    base = CONFIGS.parent / base
    if path.stem.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
        capsys.readouterr()  # it prints when it is first imported
    assert path in [CONFIGS.parent / each for each in more]
    printed = printed_config(capsys, "--config", str(base), "--config", str(path))
    assert contains(printed, yaml.safe_load(path.read_text()))


def test_every_config_is_looked_at() -> None:
    assert len(COMPLETE) >= 4
    assert {path.stem for path in COMPLETE} >= {"supervised", "generative_reward", "bradley_terry", "pairwise_ppo"}


def test_later_config_wins_and_the_command_line_wins_over_both(home: Home, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("trainer: {max_steps: 2, log_every_n_steps: 7}\nmodel: {init_args: {max_length: 63}}\n")
    run = tmp_path / "run"
    args = home.arguments("supervised", run, "--config", str(overlay), "--trainer.log_every_n_steps", "9")
    cli = run_stage(args)
    assert cli.trainer.global_step == 2
    assert cli.model.max_length == 63
    assert cli.trainer.log_every_n_steps == 9
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert (saved["trainer"]["max_steps"], saved["trainer"]["log_every_n_steps"]) == (2, 9)
    assert saved["data"]["init_args"]["batch_size"] == 8
    assert saved["trainer"]["gradient_clip_val"] == 1.0  # from the first config, which the overlay leaves alone


def test_resolved_config_repeats_the_run(home: Home, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    home.run("pairwise_ppo", first, f"{MODEL}iterations", "2")
    run_stage(["fit", "--config", str(first / "config.yaml"), "--run_dir", str(second)])
    assert (second / "model" / "model.safetensors").read_bytes() == (first / "model" / "model.safetensors").read_bytes()
    assert (second / "checkpoints" / "last.ckpt").exists()


def test_fast_dev_run_leaves_no_files(home: Home, tmp_path: Path) -> None:
    run = tmp_path / "run"
    home.run("pairwise_ppo", run, "--trainer.fast_dev_run", "true")
    assert not run.exists() or not any(run.rglob("*"))


def test_validating_a_run_leaves_its_record_alone(home: Home, tmp_path: Path) -> None:
    """The curves and the resolved config of a run tell how it was trained, also after someone validated it."""
    home.run("pairwise_ppo", tmp_path, f"{MODEL}iterations", "1")
    record = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    home.run("pairwise_ppo", tmp_path, "--ckpt_path", "last", verb="validate")
    for path, content in record.items():
        assert path.read_bytes() == content, f"{path.name} changed"
    assert not [path for path in tmp_path.glob("events.*") if path not in record]


def test_one_field_of_a_new_model_is_set_on_the_command_line(home: Home, tmp_path: Path) -> None:
    cli = home.run(
        "supervised", tmp_path, "--model.init_args.model.config.hidden_size", "24", "--trainer.max_steps", "1"
    )
    assert cli.model.model.config.hidden_size == 24
    assert cli.model.model.config.num_hidden_layers == 2
