"""What the data modules find in their rows, write into the report, and warn of."""

import errno
import gc
import json
import logging
import re
import tempfile
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import ImagePairDataModule, PreferencePairDataModule, PromptDataModule
from prl.data import DataSource, PreferencePair, store
from prl.data.encoding import PromptEncoder, ScalarPairEncoder
from prl.data.tokens import TooLongError
from prl.judge import ComparisonEncoder, JudgeTemplate
from prl.judge.attacks import FAMILIES, AttackRows
from tests.helpers.tiny import tiny_tokenizer

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

    def run(data: PreferencePairDataModule, **trainer: Any) -> tuple[dict[str, Any], list[str]]:
        usual: dict[str, Any] = {
            "is_global_zero": True,
            "fast_dev_run": False,
            "world_size": 1,
            "limit_val_batches": 1.0,
            "ckpt_path": None,
        }
        usual |= {"lightning_module": stage, "default_root_dir": tmp_path / "run"}
        fake: Any = SimpleNamespace(**{**usual, **trainer})
        data.trainer = fake
        with caplog.at_level(logging.WARNING):
            (tmp_path / "run" / "data_report.json").unlink(missing_ok=True)
            data.setup("fit")
        return json.loads((tmp_path / "run" / "data_report.json").read_text()), caplog.messages

    return run


def test_batches_that_processes_cannot_share_are_named_first(set_up, tmp_path) -> None:
    train = source(tmp_path / "train.jsonl", GOOD, AGAIN, AGAINST, OTHER)
    data = PreferencePairDataModule(train, batch_size=3)
    with pytest.raises(ValueError, match="data.init_args.batch_size is 3 and cannot be divided over 2 processes"):
        set_up(data, world_size=2)
    data = PreferencePairDataModule(train, batch_size=2, validation_batch_size=3, validation=train)
    with pytest.raises(ValueError, match="init_args.validation_batch_size is 3 and cannot be divided over 2 processes"):
        set_up(data, world_size=2)
    set_up(data, world_size=2, limit_val_batches=0)


def test_loaders_read_what_their_settings_say(set_up, tmp_path) -> None:
    questions = [GOOD | {"prompt": f"{number}" * (2 * number + 1)} for number in range(11)]
    train = source(tmp_path / "train.jsonl", *questions)
    validation = source(tmp_path / "validation.jsonl", *(each | {"chosen": "Yes."} for each in questions[:7]))

    def loaders(rank: int = 0, done: int = 0, **settings: Any) -> tuple[Any, ...]:
        data = PreferencePairDataModule(train, validation=validation, batch_size=4, cache=False, **settings)
        processed = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=done)))
        epoch = SimpleNamespace(epoch_loop=processed)
        set_up(data, world_size=2, global_rank=rank, overfit_batches=0.0, fit_loop=epoch)
        dataset = data.predict_dataloader().dataset
        trained = list(islice(data.train_dataloader().batch_sampler, 3))  # which goes on from epoch to epoch
        return trained, list(data.val_dataloader().batch_sampler), dataset

    first, second = loaders(0), loaders(1)
    assert [len(batch) for batch in first[0] + second[0]] == [2] * 6
    assert len({number for each in (first, second) for batch in each[0][:2] for number in batch}) == 8  # of 11 rows
    assert loaders(0, done=1)[0][:2] == first[0][1:]
    assert loaders(0, seed=1)[0] != first[0]
    assert loaders(0, group_by_length=not PreferencePairDataModule(train).group_by_length)[0] != first[0]
    validated = [[number for batch in each[1] for number in batch] for each in (first, second)]
    assert sorted(validated[0] + validated[1]) == list(range(7))
    assert all(numbers == sorted(numbers) for numbers in validated)
    assert [len(first[2]), len(second[2])] == [4, 3]


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


TEMPLATE = JudgeTemplate("{{ prompt }}|{{ response_a }}|{{ response_b }}>", chat=False)
MAX_LENGTH = 40


def set_up_alone(folder: Path, encoder: Any, **settings: Any) -> tuple[PreferencePairDataModule, dict[str, Any]]:
    """Set up a data module without a trainer and without a cache, and read its report."""
    data = PreferencePairDataModule(cache=False, on_invalid="skip", **settings)
    stage = SimpleNamespace(record_type=PreferencePair, build_encoder=lambda: encoder)
    trainer: Any = SimpleNamespace(
        **{"lightning_module": stage, "is_global_zero": True, "default_root_dir": folder, "fast_dev_run": False},
        **{"world_size": 1, "limit_val_batches": 1.0},
    )
    data.trainer = trainer
    data.setup("fit")
    return data, json.loads((folder / "data_report.json").read_text())


rows = st.builds(
    lambda prompt, older, length, end, other: {
        "prompt": [{"role": "user", "content": "o" * older}, {"role": "assistant", "content": "a"}] * (older > 0)
        + [{"role": "user", "content": str(prompt)}],
        "chosen": "y" * length + end,
        "rejected": "y" * length + other,
    },
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 40),
    st.sampled_from(["", "c", "cc"]),  # an empty response makes some rows invalid, and the same end does
    st.sampled_from(["", "c", "d"]),
)


@settings(max_examples=40)
@given(
    st.lists(rows, min_size=6, max_size=25), st.sampled_from(["skip", "truncate"]), st.sampled_from(["keep", "drop"])
)
def test_what_is_emitted_and_what_is_left_out_add_up_to_the_rows(given_rows, on_too_long, on_duplicate) -> None:
    encoder = ComparisonEncoder(tiny_tokenizer(), TEMPLATE, MAX_LENGTH, on_too_long)
    with tempfile.TemporaryDirectory() as folder:
        train = source(Path(folder) / "train.jsonl", *given_rows)
        try:
            data, report = set_up_alone(
                Path(folder), encoder, train=train, validation_share=0.4, on_duplicate=on_duplicate
            )
        except ValueError as error:
            if re.search("row .*is left of|cannot fill two sides|No row is valid", str(error)):
                return
            raise
        sides = {name: data.rows[name].to_list() for name in ("train", "validation")}
    read = report["train"]
    assert read["num_read"] == len(given_rows) == read["num_kept"] + sum(map(len, read["skipped"].values()))
    assert read["num_records"] == read["num_kept"]
    tokens = [report["train_tokens"], report["validation_tokens"]]
    assert read["num_records"] == read["num_dropped"] + sum(each["records"] for each in tokens)
    for each, (name, emitted) in zip(tokens, sides.items(), strict=True):
        assert each["records"] == each["rows"] + sum(each["left_out"].values())
        assert each["rows"] == len(emitted) == len(data.lengths[name])
        assert [row["length"] for row in emitted] == data.lengths[name].tolist()
        assert max(data.lengths[name]) <= MAX_LENGTH
        assert all(row["chosen_first"] != row["rejected_first"] for row in emitted)
        assert each["left_out"]["too long"] == 0 or on_too_long == "skip"
        cut = {name: each[name] for name in ("lost_turns", "lost_response_ends", "lost_prompt_beginnings")}
        assert max(cut.values()) <= round(each["cut_share"] * each["records"]) <= sum(cut.values())
    # What each record lost, told by the encoder alone.
    valid = [pair for row in given_rows for pair in parsed(row)]
    if on_duplicate == "keep":
        alone = ComparisonEncoder(tiny_tokenizer(), TEMPLATE, MAX_LENGTH, on_too_long)
        num_emitted = sum(alone.encode(pair) is not None for pair in valid)
        assert num_emitted == sum(each["rows"] for each in tokens)
        expected = Counter({loss.name: number for loss, number in alone.counts.by_truncation.items()})
        names = {"TURNS": "lost_turns", "RESPONSES": "lost_response_ends", "PROMPT": "lost_prompt_beginnings"}
        for loss, name in names.items():
            assert expected[loss] == sum(each[name] for each in tokens)
        assert expected["TOO_LONG"] == sum(each["left_out"]["too long"] for each in tokens)
        assert expected["IDENTICAL"] == sum(each["left_out"]["identical after the cut"] for each in tokens)


def parsed(row: dict[str, Any]) -> list[PreferencePair]:
    try:
        return PreferencePair.parse(row)
    except ValueError:
        return []


def test_a_second_set_up_reads_the_cache_and_reports_the_same(tmp_path, tokenizer, set_up) -> None:
    train = source(tmp_path / "train.jsonl", GOOD, OTHER, OTHER | {"prompt": "New?"}, AGAIN)
    first = PreferencePairDataModule(train, validation_share=0.3)
    report, _ = set_up(first)
    second = PreferencePairDataModule(train, validation_share=0.3)
    again, _ = set_up(second)
    assert again == report
    for side in ("train", "validation"):
        assert first.rows[side].to_list() == second.rows[side].to_list()
        assert first.rows[side].cache_files == second.rows[side].cache_files


def test_temporary_rows_stay_on_disk_as_long_as_the_data_module(tmp_path, set_up) -> None:
    # A worker that is not forked opens the file again.
    data = PreferencePairDataModule(source(tmp_path / "train.jsonl", GOOD, OTHER), validation_share=0.5, cache=False)
    set_up(data)
    [path] = {file["filename"] for side in data.rows.values() for file in side.cache_files}
    assert Path(path).is_file()
    del data
    gc.collect()
    assert not Path(path).exists()


def test_another_split_or_order_needs_no_new_encoding(tmp_path, set_up) -> None:
    train = source(tmp_path / "train.jsonl", *(OTHER | {"prompt": f"{i}?"} for i in range(9)))
    files = set()
    for change in ({}, {"seed": 1}, {"validation_share": 0.5}, {"on_duplicate": "drop"}):
        data = PreferencePairDataModule(train, **change)
        set_up(data)
        files |= {file["filename"] for side in data.rows.values() for file in side.cache_files}
    assert len(files) == 1


def test_checked_records_are_read_again_where_the_cache_is_full(tmp_path, tokenizer, monkeypatch) -> None:
    def full(place: Path, stream: Any, records: Any, encoder: Any) -> None:
        assert len(list(records)) == 2
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_make", full)
    train = source(tmp_path / "train.jsonl", {"prompt": "Hi?", "anchor": "a"}, {"prompt": "Who?", "anchor": "b"})
    data = PromptDataModule(train)
    data.encoder = PromptEncoder(tokenizer, 20)
    assert len(data._encode("train", train, {})[0].rows) == 2


# ---- attacks among the training rows


@pytest.fixture
def set_up_wide(set_up, tokenizer):
    """Set a data module up whose rows have room for attacks."""
    stage = SimpleNamespace(record_type=PreferencePair, build_encoder=lambda: ScalarPairEncoder(tokenizer, 256))
    return partial(set_up, lightning_module=stage)


def questions(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"q{each}?", "chosen": "good", "rejected": "bad", "label": each % 2} for each in range(number)]


def test_attacks_are_added_to_training_rows_alone_and_counted(set_up_wide, tmp_path) -> None:
    train, validation = source(tmp_path / "train.jsonl", *questions(40)), source(tmp_path / "v.jsonl", *questions(9))
    data = PreferencePairDataModule(train, validation=validation, attacks=AttackRows(0.5, ["claims"]))
    report, messages = set_up_wide(data)
    rows = data.rows["train"].to_list()
    made = [row for row in rows if row["attack"]]
    assert len(rows) - len(made) == 40
    assert len(data.rows["validation"]) == 9
    by_family = report["attacks"]["rows"]
    assert sum(by_family.values()) == len(made) > 5
    assert "claims" not in by_family
    assert Counter(row["attack"] for row in made) == Counter(by_family)
    assert (report["train"]["num_records"], report["train_tokens"]["rows"]) == (40, len(rows))
    for row in made:
        assert row["target"] == 1.0
        assert row["texts"][0] == ("bad" if int(row["prompt"][0]["content"][1:-1]) % 2 == 0 else "good")
        assert row["texts"][1] not in ("good", "bad")
        assert row["chosen"] != row["rejected"]
    assert report["train"]["num_duplicates"] == 0
    assert not [each for each in messages if "repeat" in each]


def test_attacks_validate_nothing_where_rows_are_held_out(set_up_wide, tmp_path) -> None:
    train = source(tmp_path / "train.jsonl", *questions(40))
    held_out = []
    for attacks in (None, AttackRows(1.0)):
        data = PreferencePairDataModule(train, validation_share=0.25, attacks=attacks)
        set_up_wide(data)
        held_out.append([row["prompt"][0]["content"] for row in data.rows["validation"].to_list()])
        assert len(data.rows["train"]) == (30 if attacks is None else 60)
    assert held_out[0] == held_out[1]  # the split does not move


def test_duplicates_are_those_of_the_data(set_up_wide, tmp_path) -> None:
    train = source(tmp_path / "train.jsonl", *([GOOD] * 6), OTHER)
    validation = source(tmp_path / "validation.jsonl", OTHER)
    data = PreferencePairDataModule(train, on_duplicate="drop", validation=validation, attacks=AttackRows(1.0))
    report, _ = set_up_wide(data)
    assert (report["train"]["num_duplicates"], report["train"]["num_dropped"]) == (5, 5)
    assert Counter(bool(row["attack"]) for row in data.rows["train"].to_list()) == {False: 2, True: 7}


def test_attacks_of_a_ranked_list_differ(set_up_wide, tmp_path) -> None:
    ranked = {"prompt": "Hi?", "completions": ["a", "b", "c", "d"], "rank": [1, 2, 3, 4]}
    validation = source(tmp_path / "validation.jsonl", OTHER)
    data = PreferencePairDataModule(
        source(tmp_path / "train.jsonl", ranked), validation=validation, attacks=AttackRows(1.0)
    )
    set_up_wide(data)
    made = [row for row in data.rows["train"].to_list() if row["attack"]]
    assert len(made) == 6
    assert len({row["texts"][1] for row in made}) > 3


def test_the_cache_keeps_rows_with_and_without_attacks_apart(set_up_wide, tmp_path) -> None:
    train, validation = source(tmp_path / "train.jsonl", *questions(30)), source(tmp_path / "v.jsonl", *questions(3))

    def rows(attacks: AttackRows | None, cache: bool = True) -> list[dict[str, Any]]:
        data = PreferencePairDataModule(train, validation=validation, attacks=attacks, cache=cache)
        set_up_wide(data)
        return data.rows["train"].to_list()

    settings = AttackRows(0.5)
    plain, first = rows(None), rows(settings)
    assert len(plain) < len(first)
    assert first == rows(settings) == rows(settings, cache=False)  # as another process, or a resumed run, would
    assert rows(None) == plain
    assert rows(AttackRows(0.5, seed=1)) != first


def test_a_resume_with_other_attacks_is_noticed(set_up_wide, tmp_path) -> None:
    train, validation = source(tmp_path / "train.jsonl", *questions(30)), source(tmp_path / "v.jsonl", *questions(3))

    def inputs(attacks: AttackRows | None) -> dict[str, Any]:
        data = PreferencePairDataModule(train, validation=validation, attacks=attacks)
        set_up_wide(data)
        return data.inputs()

    found = [inputs(each) for each in (None, AttackRows(0.5), AttackRows(0.5, seed=1))]
    assert "data.attacks" not in found[0]
    assert found[1]["data.attacks"] != found[2]["data.attacks"]


def test_attacks_write_the_verdict_words_of_the_judge(set_up, tmp_path) -> None:
    train, validation = source(tmp_path / "train.jsonl", *questions(30)), source(tmp_path / "v.jsonl", *questions(3))
    others = [name for name in FAMILIES if name != "verdict_words"]
    for words in (("V", "W"), ("X", "Y")):  # the second is not to find the rows of the first in the cache
        template = JudgeTemplate("{{ prompt }}|{{ response_a }}|{{ response_b }}|", verdicts=words)
        encoder = ComparisonEncoder(tiny_tokenizer(), template, 96)
        stage = SimpleNamespace(record_type=PreferencePair, build_encoder=lambda encoder=encoder: encoder)
        data = PreferencePairDataModule(train, validation=validation, attacks=AttackRows(1.0, others))
        set_up(data, lightning_module=stage)
        texts = [row["texts"][1] for row in data.rows["train"].to_list() if row["attack"]]
        assert len(texts) == 30
        assert set("".join(texts)) <= {*words, *" ,.\n"}


def test_attacks_that_cannot_be_are_refused(set_up, tmp_path, tokenizer) -> None:
    train = source(tmp_path / "train.jsonl", *questions(30))
    with pytest.raises(ValueError, match="ImagePairDataModule has no texts that an attack could lose to"):
        ImagePairDataModule(train, attacks=AttackRows())
    numbers = SimpleNamespace(
        record_type=PreferencePair, build_encoder=lambda: ScalarPairEncoder(tokenizer, 64, columns=("gap",))
    )
    with pytest.raises(ValueError, match="no column 'gap', which the objective reads"):
        set_up(PreferencePairDataModule(train, attacks=AttackRows()), lightning_module=numbers)
    short = SimpleNamespace(record_type=PreferencePair, build_encoder=lambda: ScalarPairEncoder(tokenizer, 12))
    with pytest.raises(TooLongError, match=r"row \d+, an attack made for it \(data.init_args.attacks\): "):
        set_up(PreferencePairDataModule(train, attacks=AttackRows(1.0)), lightning_module=short)


def test_a_share_that_adds_nothing_is_told(set_up_wide, tmp_path) -> None:
    train, validation = source(tmp_path / "train.jsonl", *questions(3)), source(tmp_path / "v.jsonl", *questions(3))
    _, messages = set_up_wide(PreferencePairDataModule(train, validation=validation, attacks=AttackRows(1e-9)))
    assert any("data.attacks adds no row to 3 pairs; raise its share (1e-09)" in each for each in messages)
