"""What the data modules find in their rows, write into the report, and warn of."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules import PreferencePairDataModule
from prl.data import DataSource, PreferencePair
from prl.data.encoding import ScalarPairEncoder

GOOD = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}
AGAIN = {"prompt": "Hi?", "chosen": "No.", "rejected": "Hello.", "label": 0.1}
AGAINST = {"prompt": "Hi?", "chosen": "No.", "rejected": "Hello."}
OTHER = {"prompt": "Who?", "chosen": "I", "rejected": "You"}


def source(path: Path, *rows: dict[str, Any]) -> DataSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSource(str(path))


@pytest.fixture
def set_up(tmp_path, tokenizer, caplog):
    """Set a data module up without a trainer; its report and what was logged."""
    stage = SimpleNamespace(record_type=PreferencePair, build_encoder=lambda: ScalarPairEncoder(tokenizer, 64))

    def run(data: PreferencePairDataModule) -> tuple[dict[str, Any], list[str]]:
        trainer: Any = SimpleNamespace(
            lightning_module=stage, is_global_zero=True, default_root_dir=tmp_path / "run", fast_dev_run=False
        )
        data.trainer = trainer
        with caplog.at_level(logging.WARNING):
            data.setup("fit")
        return json.loads((tmp_path / "run" / "data_report.json").read_text()), caplog.messages

    return run


@pytest.mark.parametrize(("on_duplicate", "num_rows", "told"), [("keep", 4, "kept; on_dup"), ("drop", 3, "dropped")])
def test_repeated_pairs_are_counted_and_dropped_only_when_asked(set_up, tmp_path, on_duplicate, num_rows, told) -> None:
    train = source(tmp_path / "train.jsonl", GOOD, AGAIN, AGAINST, OTHER)
    validation = source(tmp_path / "validation.jsonl", OTHER | {"prompt": "New?"})
    data = PreferencePairDataModule(train, on_duplicate=on_duplicate, validation=validation)
    report, messages = set_up(data)
    assert (report["train"]["num_duplicates"], report["train"]["num_contradictions"]) == (1, 1)
    assert (report["validation"]["num_duplicates"], report["validation"]["num_contradictions"]) == (0, 0)
    assert report["train"]["num_records"] == 4
    assert len(data.rows["train"]) == report["train_tokens"]["rows"] == num_rows
    assert [row["target"] for row in data.rows["train"]].count(pytest.approx(0.1)) == num_rows - 3
    [message] = messages
    assert f"train.jsonl: 1 pairs repeat an earlier one ({told}" in message
    assert "1 comparisons are won by both responses (kept)" in message


def test_prompts_on_both_sides_are_counted(set_up, tmp_path) -> None:
    train = source(tmp_path / "train.jsonl", GOOD, OTHER)
    validation = source(tmp_path / "validation.jsonl", OTHER, OTHER | {"chosen": "Me"}, OTHER | {"prompt": "New?"})
    report, messages = set_up(PreferencePairDataModule(train, validation=validation))
    assert report["num_shared_prompts"] == 1
    [message] = messages
    assert message.startswith(f"1 prompts of {tmp_path / 'validation.jsonl'} are in the training data too")


def test_clean_data_is_set_up_without_a_word(set_up, tmp_path) -> None:
    rows = [GOOD, OTHER, OTHER | {"prompt": "New?"}]
    report, messages = set_up(PreferencePairDataModule(source(tmp_path / "train.jsonl", *rows), validation_share=0.3))
    assert messages == []
    assert "num_shared_prompts" not in report


def test_an_unknown_policy_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"data\.on_duplicate is 'ask'; expected 'keep' or 'drop'"):
        PreferencePairDataModule(DataSource("pairs.jsonl"), on_duplicate="ask")
