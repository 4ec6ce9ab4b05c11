"""Mistakes of the user: one message that names the thing, on stderr, and an exit code that is not zero."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.checkpoints.ledger import LEDGER, read_ledger
from prl.cli.entry import main
from tests.integration.runs import Home, last_checkpoint

MODEL = "--model.init_args."


class Refused:
    """Runs the command line, which must refuse."""

    def __init__(self, home: Home, capsys: pytest.CaptureFixture) -> None:
        self.home, self.capsys = home, capsys

    def __call__(self, args: list[str], *patterns: str) -> str:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main(args)
        assert ending.value.code not in (0, None)
        told = self.capsys.readouterr().err
        assert "Traceback" not in told
        messages = [line for line in told.splitlines() if re.match(r"(prl: \w+:|error:)", line)]
        assert len(messages) == 1, told
        for pattern in patterns:
            assert re.search(pattern, told[told.index(messages[0]) :]), f"{pattern} is not in:\n{told}"
        return told


@pytest.fixture
def refused(home: Home, capsys: pytest.CaptureFixture) -> Refused:
    return Refused(home, capsys)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def rows_with(home: Home, kind: str, number: int, folder: Path, **changes: Any) -> Path:
    """Copy the training rows with row `number` (from 1) changed; None takes a column out."""
    rows = [json.loads(line) for line in home.data(f"{kind}.train").read_text().splitlines()]
    for column, value in changes.items():
        if value is None:
            del rows[number - 1][column]
        else:
            rows[number - 1][column] = value
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- data

BAD_ROWS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "missing_column": (
        *("generative_reward", "pairs", {"rejected": None}),
        (r"row 5, field 'rejected'", "missing column", "the columns prompt, chosen and rejected"),
    ),
    "empty_response": (
        *("generative_reward", "pairs", {"chosen": "  "}),
        (r"row 5, field 'chosen'", "empty text", "Give it a response or remove the row"),
    ),
    "equal_responses": (
        *("bradley_terry", "pairs", {"chosen": "abc", "rejected": "abc"}),
        ("row 5, field 'rejected'", "chosen equals rejected"),
    ),
    "nan_preference": (
        *("generative_reward", "pairs", {"preference": float("nan")}),
        ("row 5, field 'preference'", "nan", "a number from 0 to 1"),
    ),
    "preference_above_one": (
        *("generative_reward", "pairs", {"preference": 1.5}),
        ("row 5, field 'preference'", "1.5", "a number from 0 to 1"),
    ),
    "unknown_role": (
        *("pairwise_ppo", "prompts", {"prompt": [{"role": "teacher", "content": "add 1+1"}]}),
        (r"row 5, field 'prompt\[0\].role'", "teacher", "system, user, assistant"),
    ),
    "empty_completion": ("supervised", "demonstrations", {"completion": ""}, ("row 5, field 'completion'",)),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row(case: str, refused: Refused, run: Path, tmp_path: Path) -> None:
    stage, kind, changes, patterns = BAD_ROWS[case]
    data = rows_with(refused.home, kind, 5, tmp_path, **changes)
    args = refused.home.arguments(stage, run, "--data.init_args.train.path", str(data))
    refused(args, "DataError", "rows.jsonl", *patterns)


def test_missing_data_file(refused: Refused, run: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing.jsonl")
    args = refused.home.arguments("supervised", run, "--data.init_args.train.path", missing)
    refused(args, "DataError", f"no data file at {re.escape(missing)}")


def test_prompts_without_anchors(refused: Refused, run: Path, tmp_path: Path) -> None:
    data = rows_with(refused.home, "prompts", 5, tmp_path, anchor=None)
    args = refused.home.arguments("pairwise_ppo", run, "--data.init_args.train.path", str(data))
    refused(args, "DataError", "1 of 32 prompts have no anchor", "Add a column 'anchor'")


def test_too_long_prompts(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("pairwise_ppo", run, f"{MODEL}max_prompt_length", "9")
    refused(args, "TooLongError", "max_prompt_length is 9", "a prompt takes 1[0-9] tokens", "on_too_long")


def test_too_long_demonstrations(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("supervised", run, f"{MODEL}max_length", "10")
    refused(args, "TooLongError", "max_length is 10", "on_too_long")


def test_nothing_left_after_skipping(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("supervised", run, f"{MODEL}max_length", "2", f"{MODEL}on_too_long", "skip")
    refused(args, "DataError", "no row of .*demonstrations.validation.jsonl is left of 8", "max_length")


def test_batch_larger_than_the_data(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("supervised", run, "--data.init_args.batch_size", "33")
    refused(args, "32 rows", "batch_size 33|batch_size is 33")


def test_data_module_of_another_stage(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("supervised", run, "--data", "PreferencePairDataModule")
    args += ["--data.init_args.train.path", str(refused.home.data("pairs.train"))]
    refused(args, "SupervisedModule learns from Demonstration rows", "PreferencePairDataModule gives PreferencePair")


# ---- judge


def test_verdict_word_of_two_tokens(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("generative_reward", run, f"{MODEL}template.verdicts", "[AB, CD]")
    refused(args, "VerdictTokenError", r"verdict word 'AB' is written as 2 tokens \['A', 'B'\]", "answer_prefix")


def test_template_without_a_response(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("generative_reward", run, f"{MODEL}template.text", "{{ prompt }} {{ response_a }}")
    refused(args, r"response_b \}\} 0 times")


def test_judge_folder_that_is_no_judge(refused: Refused, run: Path) -> None:
    world = str(refused.home.data("pairs.train").parent)
    args = refused.home.arguments("pairwise_ppo", run, f"{MODEL}reward.init_args.path", world)
    refused(args, re.escape(world), "is not a judge")


def test_judge_of_the_other_kind(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("pairwise_ppo", run, f"{MODEL}reward.init_args.path", str(refused.home.bradley_terry))
    refused(args, "holds a bradley_terry judge")


def test_missing_judge_folder(refused: Refused, run: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "no_judge")
    args = refused.home.arguments("pairwise_ppo", run, f"{MODEL}reward.init_args.path", missing)
    refused(args, re.escape(missing))


# ---- models


@pytest.mark.parametrize(
    ("stage", "option"),
    [("generative_reward", "model.path"), ("pairwise_ppo", "policy.path"), ("bradley_terry", "model.path")],
)
def test_missing_model_folder(stage: str, option: str, refused: Refused, run: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "no_model")
    args = refused.home.arguments(stage, run, f"{MODEL}{option}", missing)
    refused(args, "ModelNotFoundError", f"{re.escape(missing)} does not exist", "run the stage that writes it first")


def test_folder_that_holds_no_model(refused: Refused, run: Path, tmp_path: Path) -> None:
    args = refused.home.arguments("generative_reward", run, f"{MODEL}model.path", str(tmp_path))
    refused(args, "ModelNotFoundError", "is not a Hugging Face model folder")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there(refused: Refused, run: Path) -> None:
    refused(
        refused.home.arguments("supervised", run, "--trainer.accelerator", "gpu"), "MisconfigurationException: No supp"
    )


# ---- checkpoints and run folders


def test_last_checkpoint_of_a_run_that_has_none(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("supervised", run, "--ckpt_path", "last")
    refused(args, "RunError", "--ckpt_path last", re.escape(str(run)), "does not exist", "--run_dir")


def test_missing_checkpoint(refused: Refused, run: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "no.ckpt")
    args = refused.home.arguments("supervised", run, "--ckpt_path", missing)
    refused(args, "RunError", re.escape(missing), "does not exist")


def test_torn_checkpoint(refused: Refused, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its path it is refused; as `last` the one before it is used; with none left that is an error too."""
    refused.home.run("supervised", run)
    folder = run / "checkpoints"
    older, newest = folder / "batch-000002.ckpt", folder / "batch-000004.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    args = refused.home.arguments("supervised", run, "--ckpt_path", str(folder / "last.ckpt"))
    refused(args, "RunError", "last.ckpt is torn", "has 1000 bytes", "--ckpt_path last")
    refused(refused.home.arguments("supervised", run), "RunError", "already holds a run")
    refused.home.run("supervised", run, "--ckpt_path", "last")
    assert f"checkpoint {newest} is torn" in caplog.text
    assert f"continuing from {older}" in caplog.text
    assert last_checkpoint(run)["global_step"] == 4
    for path in (older, newest):
        path.write_bytes(b"")
    args = refused.home.arguments("supervised", run, "--ckpt_path", "last")
    refused(args, "RunError", "no whole checkpoint is left", older.name, newest.name)


def test_checkpoint_of_another_stage(refused: Refused, run: Path, tmp_path: Path) -> None:
    refused.home.run("supervised", run)
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    args = refused.home.arguments("bradley_terry", tmp_path / "other", "--ckpt_path", checkpoint)
    refused(args, re.escape(checkpoint))


def test_continuing_a_run_with_another_judge_changes_nothing(refused: Refused, run: Path) -> None:
    refused.home.run("generative_reward", run)
    record = {path: path.read_bytes() for path in (run / "config.yaml", *run.glob("model/*"))}
    assert len(record) > 4
    again = refused.home.arguments("generative_reward", run, "--ckpt_path", "last")
    refused(
        [*again, f"{MODEL}max_length", "90", f"{MODEL}template.verdicts", "[B, A]"],
        *(r"- max_length: \d+ in training, 90 now", r"- template.verdicts: \['A', 'B'\] in training, \['B', 'A'\] now"),
    )
    refused([*again, f"{MODEL}optimization.learning_rate", "0.5"], "the configuration says .*0.5")
    assert {path: path.read_bytes() for path in record} == record


def test_a_name_that_is_not_utf8(refused: Refused, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    args = refused.home.arguments("supervised", Path(name))
    refused(
        args, r"RunError: run_dir '.*/caf\\udce9' is not UTF-8, which TensorBoard cannot write; choose another name"
    )
    shutil.copytree(refused.home.policy, name)
    refused(
        ["data", str(refused.home.data("pairs.train")), "--tokenizer", name], r"caf\\udce9' is not UTF-8.*rename it"
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_run_folder_that_holds_a_run(
    overwrite: bool, refused: Refused, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused.home.run("supervised", run)
    before = last_checkpoint(run)["global_step"]
    args = refused.home.arguments("supervised", run, "--trainer.max_steps", "2")
    if overwrite:
        (run / "model" / "notes.txt").write_text("somebody else's")
        anew = [*args, "--overwrite", "true", "--trainer.overfit_batches", "1"]
        with monkeypatch.context() as patched:
            patched.setattr("lightning_modules.callbacks.run_checkpoint.save_tensors", half_of_it)
            refused(anew, "No space left on device: .*batch-000002.partial", "No checkpoint of the run is whole")
        assert [path.name for path in (run / "model").iterdir()] == ["notes.txt"]
        assert list((run / "checkpoints").iterdir()) == []
        main(anew)
        assert last_checkpoint(run)["global_step"] == 2
        assert {"notes.txt", "model.safetensors"} <= {path.name for path in (run / "model").iterdir()}
        first, second = (line["data"] for _, line in sorted(read_ledger(run / LEDGER)[0].items()))
        assert first == second  # one batch, again and again
        return
    refused(args, "RunError", "already holds a run", "--ckpt_path last", "--run_dir", "--overwrite true")
    assert last_checkpoint(run)["global_step"] == before
    shutil.rmtree(run / "checkpoints")
    refused(args, "already holds a run .*model")  # whose checkpoints were taken away to save room
    (run / "config.yaml").write_text("# my own settings\n")
    refused([*args, "--overwrite", "true"], "config.yaml is there and prl did not write it")


def half_of_it(content: Any, path: Path) -> None:
    """Fill the disk in the middle of a checkpoint."""
    Path(path).write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- configuration


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--model.init_args.ppo.epocs", "epocs"),
        ("--model.init_args.iteration", "iteration"),
        ("--trainer.max_stepps", "max_stepps"),
        ("--data.init_args.batchsize", "batchsize"),
        ("--checkpoint.every_batch", "every_batch"),
        ("--rundir", "rundir"),
    ],
)
def test_misspelt_key_on_the_command_line(option: str, named: str, refused: Refused, run: Path) -> None:
    refused(refused.home.arguments("pairwise_ppo", run, option, "3"), rf"\b{named}\b")


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ("model: {init_args: {ppo: {clip: 0.1}}}", "clip"),
        ("model: {init_args: {policy: {pth: x}}}", "pth"),
        ("trainer: {max_step: 3}", "max_step"),
        ("data: {init_args: {train: {file: x}}}", "file"),
        ("checkpoints: {every_n_batches: 3}", "checkpoints"),
    ],
)
def test_misspelt_key_in_yaml(overlay: str, named: str, refused: Refused, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(overlay + "\n")
    refused(refused.home.arguments("pairwise_ppo", run, "--config", str(path)), rf"\b{named}\b")


@pytest.mark.parametrize(
    ("stage", "overrides", "patterns"),
    [
        (
            "pairwise_ppo",
            ("objective.init_args.clip_range", "1.5"),
            ("PPO.clip_range is 1.5", r"a number in \(0, 1\)"),
        ),
        ("pairwise_ppo", ("sampling.temperature", "0"), ("sampling.temperature is 0.0", "a positive number")),
        ("pairwise_ppo", ("shaping", "[prl.rewards.shapers.Elo]"), ("shaping", "Elo")),
        ("pairwise_ppo", ("update.minibatches", "9"), ("update.minibatches is 9", "3 micro-batches")),
        ("pairwise_ppo", ("iterations", "0"), ("init_args.iterations is 0; expected at least 1",)),
        (
            "generative_reward",
            ("order", "random", "text_coef", "0", "objective.init_args.consistency_coef", "1"),
            ("objective: Pairwise reads both orders", "order is random; it needs order: both"),
        ),
        ("supervised", ("model.path", "x"), ("either path or config", "set one of them to null")),
        ("supervised", ("max_length", "0"), ("model.init_args.max_length is 0; expected at least 1 token",)),
        ("bradley_terry", ("max_length", "-3"), ("model.init_args.max_length is -3",)),
        ("preference", ("max_length", "0"), ("model.init_args.max_length is 0",)),
        ("pairwise_ppo", ("max_prompt_length", "-1"), ("model.init_args.max_prompt_length is -1",)),
        (
            "supervised",
            ("model.config.num_attention_heads", "3"),
            ("num_attention_heads: 3", "makes no model", "multiple"),
        ),
        (
            "supervised",
            ("model.config", '{"model_type": "lama"}'),
            ("model_type: lama", "Unrecognized model identifier"),
        ),
        (
            *("supervised", ("model.config", '{"model_type": "llama", "hidden_sizes": 8}')),
            ("llama has no setting hidden_sizes; did you mean hidden_size?",),
        ),
        (
            *("supervised", ("model.config", '{"model_type": "gpt2", "n_embd": 10, "n_head": 4}')),
            ("n_head: 4", "divisible"),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_setting_out_of_range(
    stage: str, overrides: tuple[str, ...], patterns: tuple[str, ...], refused: Refused, run: Path
) -> None:
    words = [word if i % 2 else MODEL + word for i, word in enumerate(overrides)]
    refused(refused.home.arguments(stage, run, *words), *patterns)


@pytest.mark.parametrize("name", ["batch_size", "validation_batch_size"])
def test_a_batch_of_nothing(name: str, refused: Refused, run: Path) -> None:
    args = refused.home.arguments("supervised", run, f"--data.init_args.{name}", "0")
    refused(args, f"data.init_args.{name} is 0; expected at least 1")


def test_a_run_folder_that_cannot_be_made(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(refused.home.arguments("supervised", tmp_path / "file" / "run"), "run_dir .*/file/run cannot be made")


def test_schedule_without_an_end(refused: Refused, run: Path) -> None:
    args = refused.home.arguments("supervised", run, "--trainer.max_steps", "-1", "--trainer.max_epochs", "1")
    refused(args, "optimization.schedule 'cosine'", "trainer.max_steps")


def test_refusals_leave_no_run_behind(refused: Refused, run: Path) -> None:
    refused(refused.home.arguments("supervised", run, "--ckpt_path", "last"))
    shutil.rmtree(run, ignore_errors=True)
    refused.home.run("supervised", run)
