"""Policies that learn from preference pairs, through the command line."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_modules.reference as reading
from lightning_modules import PreferenceModule
from prl.checkpoints.files import LAST
from prl.cli.entry import main
from prl.config import ModelSource
from prl.data import DataError
from prl.data.reference_cache import VALUES
from prl.models.loading import load_causal_lm
from tests.integration.runs import (
    CONFIGS,
    Home,
    Interrupt,
    InterruptedRun,
    Numbers,
    callback,
    differences,
    find_callback,
    last_checkpoint,
    state_of,
)
from tests.integration.test_resume import TRAINING, assert_same_end
from tests.integration.test_tensorboard import events, scalars
from tests.integration.test_two_processes import STRATEGIES
from tests.integration.test_two_processes import run as run_processes

MODEL = "--model.init_args."
LEARNING = (f"{MODEL}optimization.learning_rate", "3e-3")
CACHED = (f"{MODEL}reference_logprobs", "cached")
LORA = (f"{MODEL}model.lora.rank", "4")
HALF = ("--trainer.precision", "bf16-mixed")
HELPERS = "tests.helpers.preference."


@pytest.fixture(autouse=True)
def caches(tmp_path: Path) -> Path:
    """Give this test caches of its own; what was set before is put back behind each test."""
    os.environ["PRL_HOME"] = str(tmp_path / "prl_home")
    return tmp_path / "prl_home" / "reference"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return last_checkpoint(run)["state_dict"]


def numbers(cli: Any) -> list[dict[str, float]]:
    found = find_callback(cli.trainer, Numbers)
    return [*found.training, *found.validation]


class Counted:
    """How many pairs the reference reads."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.pairs, read = 0, reading.read_pairs

        def counting(model: Any, pairs: list, *more: Any) -> list[torch.Tensor]:
            self.pairs += len(pairs)
            return read(model, pairs, *more)

        patch.setattr(reading, "read_pairs", counting)


@pytest.mark.parametrize(
    "more",
    [(), pytest.param(LORA, marks=pytest.mark.slow), HALF],
    ids=["whole", "adapters", "bfloat16"],
)
def test_a_cached_reference_gives_the_bits_of_a_live_one(
    more: tuple[str, ...],
    home: Home,
    tmp_path: Path,
    caches: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted = Counted(monkeypatch)
    settings = (*LEARNING, *more, "--trainer.max_steps", "6", callback(Numbers))  # into the second epoch
    live = home.run("preference", tmp_path / "live", *settings)
    assert counted.pairs == 6 * 8 + 2 * 9  # each batch, and two validations
    cached = home.run("preference", tmp_path / "cached", *settings, *CACHED)
    assert counted.pairs == 6 * 8 + 2 * 9 + 32 + 9  # once
    assert differences(weights(tmp_path / "live"), weights(tmp_path / "cached")) == []
    assert numbers(live) == numbers(cached)
    assert (live.model.reference is None, cached.model.reference is None) == (more == LORA, True)
    assert len(list(caches.glob("*/report.json"))) == 2  # training and validation rows

    home.run("preference", tmp_path / "again", *settings, *CACHED)
    assert counted.pairs == 6 * 8 + 2 * 9 + 32 + 9  # read from the disk
    values = max(caches.glob(f"*/{VALUES}"), key=lambda path: path.stat().st_size)
    values.write_bytes(values.read_bytes()[:-4] + b"\0\0\0\0")
    with caplog.at_level(logging.WARNING):
        home.run("preference", tmp_path / "mended", *settings, *CACHED)
    assert f"the cache in {values.parent} is damaged ({VALUES} has another hash)" in caplog.text
    assert counted.pairs == 6 * 8 + 2 * 9 + 32 + 9 + 32
    for name in ("again", "mended"):
        assert differences(weights(tmp_path / "live"), weights(tmp_path / name)) == []


def packing(mode: str) -> tuple[str, ...]:
    return (f"{MODEL}packed", mode)


@pytest.mark.parametrize("more", [(), pytest.param(HALF, marks=pytest.mark.slow)], ids=["float32", "bfloat16"])
def test_packed_pairs_learn_what_plain_ones_do(more: tuple[str, ...], home: Home, tmp_path: Path) -> None:
    found = {}
    for mode in ("off", "auto", "on"):
        cli = home.run("preference", tmp_path / mode, *LEARNING, *more, callback(Numbers), *packing(mode))
        found[mode] = numbers(cli)
        counts = [each.tokens for each in cli.model.sharing.values()]
        assert [each.computed < each.plain for each in counts] == [mode != "off"] * 2
        assert (found[mode][0]["perf/saved_tokens"] > 0.1) == (mode != "off")
    tolerance = {"rel": 1e-5, "abs": 1e-5} if more == () else {"rel": 0.02, "abs": 0.02}
    for mode in ("auto", "on"):
        for each, plain in zip(found[mode], found["off"], strict=True):
            # Accuracies are a matter of rounding at the start.
            for name in plain.keys() - {"train/accuracy", "val/accuracy", "perf/saved_tokens"}:
                assert each[name] == pytest.approx(plain[name], **tolerance), (mode, name)


@pytest.mark.parametrize(
    "change",
    ["weights", "precision", "packing", pytest.param("rows", marks=pytest.mark.slow)],
    ids=lambda change: change,
)
def test_another_start_precision_or_row_is_another_cache(
    change: str, home: Home, tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", *CACHED)
    home.run("preference", tmp_path / "one", *settings)
    counted = Counted(monkeypatch)
    rows = tmp_path / "rows.jsonl"
    lines = home.data("pairs.train").read_text().splitlines()
    rows.write_text("\n".join(lines[1:] + lines[:1]) + "\n")
    changed = {
        "weights": (f"{MODEL}reference.path", str(home.judge)),
        "precision": ("--trainer.precision", "bf16-mixed"),
        "packing": packing("off"),
        "rows": ("--data.init_args.train.path", str(rows)),
    }[change]
    home.run("preference", tmp_path / "other", *settings, *changed)
    assert counted.pairs == 32
    assert len(list(caches.glob("*/report.json"))) == 2


@pytest.mark.parametrize("more", [CACHED, (f"{MODEL}objective", f"{HELPERS}Counting")], ids=["cached", "with a state"])
def test_a_run_that_is_cut_off_ends_like_an_uninterrupted_one(
    more: tuple[str, ...], home: Home, tmp_path: Path
) -> None:
    settings = (*LEARNING, *TRAINING, *more)
    home.run("preference", tmp_path / "whole", *settings)
    with pytest.raises(InterruptedRun):
        home.run("preference", tmp_path / "cut", *settings, callback(Interrupt, batch=7, moment="backward"))
    home.run("preference", tmp_path / "cut", *settings, "--ckpt_path", "last")
    assert_same_end(tmp_path / "cut", tmp_path / "whole")
    assert len(state_of(tmp_path / "whole")["run_state"]["drift"]["recent"]) == 10


def test_an_objective_reads_columns_and_responses_of_a_row(home: Home, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in home.data("pairs.train").read_text().splitlines()]
    paths = {}
    for name, chosen in (("good", rows), ("bad", rows[:9])):
        for number, row in enumerate(chosen):
            row |= {"gold": f"{row['chosen']} {number}", "offset": number / 10}
        paths[name] = tmp_path / f"{name}.jsonl"
        if name == "bad":
            del rows[3]["offset"]
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in chosen))
    splits = ("--data.init_args.train.path", str(paths["good"]), "--data.init_args.validation.path")
    settings = (f"{MODEL}objective", f"{HELPERS}WithGold", *LEARNING, *splits)
    mapped = ("--data.init_args.validation.columns", "{gold: best, offset: shift}")
    paths["mapped"] = tmp_path / "mapped.jsonl"
    renamed = paths["good"].read_text().replace('"gold"', '"best"').replace('"offset"', '"shift"')
    paths["mapped"].write_text(renamed)
    cli = home.run("preference", tmp_path / "run", *settings, str(paths["mapped"]), *mapped, callback(Numbers))
    assert all(torch.isfinite(torch.tensor(list(each.values()))).all() for each in numbers(cli))
    batch = next(iter(cli.datamodule.val_dataloader()))
    assert batch["column.offset"].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert len(batch["input_ids"]) == 15
    message = (
        r"bad.jsonl, row 4, field 'offset': found further columns .*'gold'.* \(missing column\); expected a finite "
        "number in every row, which the objective reads. Add the column 'offset' to the data"
    )
    with pytest.raises(DataError, match=message):
        home.run("preference", tmp_path / "refused", *settings, str(paths["bad"]))
    with pytest.raises(DataError, match="columns maps gold to 'best', which no row of .*good.jsonl has"):
        home.run("preference", tmp_path / "refused", *settings, str(paths["good"]), *mapped)
    with pytest.raises(
        ValueError, match=r"columns maps \['golden'\]; a PreferencePair has the fields .*'gold', 'offset'\]"
    ):
        home.run("preference", tmp_path / "refused", *settings, str(paths["good"]), mapped[0], "{golden: best}")


def listed(home: Home, name: str) -> list[dict[str, Any]]:
    """Give one to four answers to each pair."""
    rows = [json.loads(line) for line in home.data(name).read_text().splitlines()]
    for number, row in enumerate(rows):
        row["answers"] = [f"{row['chosen']} {n}"[: 1 + (number + 5 * n) % 9].strip() for n in range(1 + number % 4)]
        row["worth"] = [number / 10 - n for n in range(len(row["answers"]))]
    return rows


def test_lists_and_revisions_are_read_alike_live_and_cached(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows have lists of different lengths, and prompts that quote; both caches give them back."""
    rows = listed(home, "pairs.train")
    paths = {"good": tmp_path / "good.jsonl", "bad": tmp_path / "bad.jsonl"}
    for name, path in paths.items():
        if name == "bad":
            rows[3]["worth"].append(1.0)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = ("--data.init_args.train.path", str(paths["good"]), "--data.init_args.validation.path")
    settings = (f"{MODEL}objective", f"{HELPERS}ListsAndRevisions", *LEARNING, *splits)
    steps = (str(paths["good"]), "--trainer.max_steps", "6", callback(Numbers))
    counted = Counted(monkeypatch)
    live = home.run("preference", tmp_path / "live", *settings, *steps)
    before = counted.pairs
    cached = home.run("preference", tmp_path / "cached", *settings, *steps, *CACHED)
    assert counted.pairs == before + len(rows)  # both sides are one file, and each is read once
    assert differences(weights(tmp_path / "live"), weights(tmp_path / "cached")) == []
    assert numbers(live) == numbers(cached)
    row = cached.datamodule.rows["train"][3]
    assert (len(row["answers"]), row["column.worth"]) == (4, pytest.approx([0.3, -0.7, -1.7, -2.7]))
    assert str(cached.datamodule.rows["train"].features["answers"]) == "List(List(Value('int32')))"
    with pytest.raises(DataError, match=r"bad.jsonl, row 4, field 'worth': found 5 numbers .wrong length.; expected 4"):
        home.run("preference", tmp_path / "refused", *settings, str(paths["bad"]))


def test_rows_are_refused_before_a_model_is_read(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreferenceModule, "configure_model", lambda self: pytest.fail("a model was read"))
    with pytest.raises(DataError, match="row 1, field 'gold': found further columns .*missing column"):
        home.run("preference", tmp_path / "run", f"{MODEL}objective", f"{HELPERS}WithGold")


def test_predictions_are_margins_of_the_validation_pairs_in_file_order(home: Home, tmp_path: Path) -> None:
    home.run("preference", tmp_path, *LEARNING)
    cli = home.run("preference", tmp_path, "--ckpt_path", "last", verb="predict")
    (path,) = tmp_path.rglob("predictions.jsonl")
    assert {each.parent for each in tmp_path.rglob("data_report.json")} == {tmp_path, tmp_path / "predict"}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 9
    assert {"margin", "reward_chosen", "reward_rejected", "logprob_chosen", "logprob_rejected"} <= rows[0].keys()
    batch = cli.datamodule.encoder.collate([cli.datamodule.rows["validation"][n] for n in range(9)])
    expected = cli.model.predict_step(batch, 0)
    assert [row["margin"] for row in rows] == pytest.approx([row["margin"] for row in expected], abs=1e-5)


def test_a_cache_needs_the_cache(home: Home, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="reference_logprobs: cached keeps numbers in prl's cache folder, which data.c"
    ):
        home.run("preference", tmp_path, *CACHED, "--data.init_args.cache", "false")


def test_a_dry_run_leaves_no_cache(home: Home, tmp_path: Path, caches: Path) -> None:
    home.run("preference", tmp_path / "run", *CACHED, "--trainer.fast_dev_run", "true")
    assert not caches.exists()


def test_a_changed_reference_is_noticed_on_resume(home: Home, tmp_path: Path) -> None:
    home.run("preference", tmp_path, f"{MODEL}reference.path", str(home.judge))
    more = (f"{MODEL}reference.path", str(home.policy), "--trainer.max_steps", "6", "--ckpt_path", "last")
    with pytest.raises(ValueError, match="the inputs of checkpoint .* have changed:\n- model.reference/"):
        home.run("preference", tmp_path, *more)


def guide(path: Path, more: str = "") -> tuple[str, ...]:
    return (f"{MODEL}objective", "TGDPO", f"{MODEL}guides", f"{{guide: {{path: {path}{more}}}}}")


def test_a_cached_guide_gives_the_bits_of_a_live_one_and_another_is_noticed_on_resume(
    home: Home, tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    settings = (*LEARNING, *guide(home.judge), "--trainer.max_steps", "6", callback(Numbers))
    live = home.run("preference", tmp_path / "live", *settings)
    assert counted.pairs == 2 * (6 * 8 + 2 * 9)  # by two models
    cached = home.run("preference", tmp_path / "cached", *settings, *CACHED)
    assert counted.pairs == 2 * (6 * 8 + 2 * 9 + 32 + 9)
    assert len(list(caches.glob("*/report.json"))) == 4  # training and validation rows of each
    assert differences(weights(tmp_path / "live"), weights(tmp_path / "cached")) == []
    assert numbers(live) == numbers(cached)
    assert (len(live.model.guides), len(cached.model.guides)) == (1, 0)
    assert not [name for name in weights(tmp_path / "live") if name.startswith(("guides", "reference"))]
    plain = home.run("preference", tmp_path / "plain", *LEARNING, "--trainer.max_steps", "6", callback(Numbers))
    assert numbers(plain)[0]["train/loss"] == pytest.approx(numbers(live)[0]["train/loss"], abs=1e-5)  # both ln 2
    assert numbers(plain)[-1]["val/loss"] != numbers(live)[-1]["val/loss"]
    home.run("preference", tmp_path / "other", *settings, *guide(home.policy), *CACHED)  # the reference's numbers
    assert counted.pairs == 2 * (6 * 8 + 2 * 9 + 32 + 9) + 6 * 8 + 2 * 9
    more = (*guide(home.policy), "--trainer.max_steps", "8", "--ckpt_path", "last")
    with pytest.raises(ValueError, match="the inputs of checkpoint .* have changed:\n- model.guides.guide/"):
        home.run("preference", tmp_path / "live", *LEARNING, *more)


def test_a_missing_guide_is_one_line(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(home.arguments("preference", tmp_path, f"{MODEL}objective", "TGDPO"))
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "guides.guide" in each]
    assert "guides.guide is not set, but TGDPO reads the log-probabilities of this frozen model; set model.init" in line


def test_the_start_of_dpo_is_ln_2_and_its_reference_stays(home: Home, tmp_path: Path) -> None:
    cli = home.run("preference", tmp_path, *LEARNING, callback(Numbers))
    first = numbers(cli)[0]
    assert first["train/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["drift/chosen"] == pytest.approx(0, abs=1e-3)
    assert numbers(cli)[-1]["val/loss"] != first["train/loss"]
    assert type(cli.model.objective).__name__ == "DPO"


def test_a_critic_of_adapters_learns_beside_the_policy_and_is_not_exported(home: Home, tmp_path: Path) -> None:
    settings = ("--config", str(CONFIGS / "methods" / "oreo.yaml"), *LORA, f"{MODEL}critic.kind", "adapter")
    for split in ("train", "validation"):
        rows = [{**row, "responses": row["answers"], "rewards": row["worth"]} for row in listed(home, f"pairs.{split}")]
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings += (f"--data.init_args.{split}.path", str(path))
    cli = home.run("preference", tmp_path / "run", *LEARNING, *settings)
    saved = weights(tmp_path / "run")
    assert {"critic.head.weight", "critic.head.bias"} <= saved.keys()
    learnt = {name.split(".lora_")[1].split(".")[1] for name in saved if ".lora_B" in name}
    assert learnt == {"default", "critic"}
    assert all(each.any() for name, each in saved.items() if ".lora_B" in name)
    assert cli.model.reference is None
    arguments = ("--checkpoint", str(tmp_path / "run" / "checkpoints" / LAST), "--output", str(tmp_path / "exported"))
    main(["export", *arguments])
    exported = load_causal_lm(ModelSource(path=str(tmp_path / "exported"))).state_dict()
    written = load_causal_lm(ModelSource(path=str(tmp_path / "run" / "model"))).state_dict()
    assert differences(exported, written) == []
    assert not [name for name in exported if "critic" in name or "lora" in name]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["whole", "adapters", "guided", "lists"])
def test_two_processes_cache_what_they_would_compute(strategy: str, kind: str, home: Home, tmp_path: Path) -> None:
    """Nine validation pairs in batches of six: three and three, then two and one."""
    lists: tuple[str, ...] = (f"{MODEL}objective", f"{HELPERS}ListsAndRevisions")
    for split in ("train", "validation"):
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in listed(home, f"pairs.{split}")))
        lists += (f"--data.init_args.{split}.path", str(path))
    more = {"whole": (), "adapters": LORA, "guided": guide(home.judge), "lists": lists}[kind]
    settings = (*LEARNING, *more, *STRATEGIES[strategy], "--trainer.limit_val_batches", "1.0")
    settings += ("--data.init_args.validation_batch_size", "6")
    live, cached = (
        run_processes(home, "preference", tmp_path / name, 2, *settings, *how)
        for name, how in (("live", ()), ("cached", CACHED))
    )
    assert differences(live, cached) == []


@pytest.mark.slow
def test_what_learns_beside_the_policy_learns_alike_under_every_strategy(home: Home, tmp_path: Path) -> None:
    """A critic of its own, heads, hidden states and the exact KL, whole and in shards, with language heads in slices.

    Processes have unequal numbers of slices, which in ZeRO-3's shards would wait for each other.
    """
    found, first = {}, {}
    for name, strategy in STRATEGIES.items():
        objective = (f"{MODEL}objective", f"{HELPERS}WithStatesInSlices")
        found[name] = run_processes(home, "preference", tmp_path / name, 2, *LEARNING, *objective, *strategy)
        first[name] = scalars(events(tmp_path / name))["train/loss"][0]
    assert found["ddp"].keys() >= {"critic.head.weight", "heads.size.weight", "heads.colour.bias"}
    assert found["ddp"]["critic.head.weight"].any()
    for name in STRATEGIES:
        assert first[name] == pytest.approx(first["ddp"], rel=1e-5), name
        for key, weight in found["ddp"].items():
            ours = found[name][key]
            torch.testing.assert_close(ours, weight, atol=1e-4, rtol=1e-4, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_learn_from_packed_pairs_what_they_learn_from_plain_ones(
    strategy: str, home: Home, tmp_path: Path
) -> None:
    settings = (*LEARNING, *STRATEGIES[strategy], f"{MODEL}model.gradient_checkpointing", "true")
    off, on = (run_processes(home, "preference", tmp_path / m, 2, *settings, *packing(m)) for m in ("off", "on"))
    assert differences(off, on) != []  # they were read otherwise
    for name, weight in off.items():
        torch.testing.assert_close(on[name], weight, atol=1e-5, rtol=1e-5, msg=name)
