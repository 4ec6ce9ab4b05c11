"""What is said of a data set: lengths, labels, repeated pairs, rules that read nothing; and `prl data`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from prl.cli.commands import COMMANDS
from prl.data import DataError, Demonstration, PreferencePair
from prl.data.audit import audit_pairs, shared_prompts
from prl.data.rows.records import AnchoredPrompt, prompt_key
from prl.evaluation import bootstrap as intervals
from prl.evaluation.data_summary import baselines, describe, label_counts, lengths


def pair(chosen="good", rejected="bad", prompt="Hi?", **columns):
    [record] = PreferencePair.parse({"prompt": prompt, "chosen": chosen, "rejected": rejected} | columns)
    return record


def rules(pairs):
    return baselines(pairs, [prompt_key(record.prompt) for record in pairs])


# ---- repeated pairs


def test_duplicates_are_repeats_with_the_same_winner() -> None:
    pairs = [
        pair(),
        pair("bad", "good", preference=0.2),  # the other way round, and so is its label
        pair(prompt="Who?"),
        pair(preference=0.9),
        pair(" good"),
    ]
    audit = audit_pairs(pairs)
    assert (audit.duplicates.tolist(), audit.num_contradictions) == ([1, 3, 4], 0)


def test_contradictions_are_comparisons_won_by_both() -> None:
    pairs = [pair(), pair("bad", "good"), pair(preference=0.1), pair(prompt="Who?"), pair(prompt="Who?", preference=0)]
    audit = audit_pairs(pairs)
    assert (audit.duplicates.tolist(), audit.num_contradictions) == ([2], 2)


def test_a_tie_contradicts_nothing_but_can_be_repeated() -> None:
    audit = audit_pairs([pair(), pair(preference=0.5), pair("bad", "good", preference=0.5)])
    assert (audit.duplicates.tolist(), audit.num_contradictions) == ([2], 0)


def test_shared_prompts_are_counted_once() -> None:
    assert shared_prompts(np.array([b"a", b"a", b"b"]), np.array([b"a", b"c", b"a"])) == 1


# ---- lengths and labels


def test_lengths_are_quantiles_of_every_part() -> None:
    turns = [{"role": "system", "content": "abc"}, {"role": "user", "content": "de"}]
    pairs = [pair("x" * n, "y" * 2 * n, prompt=turns) for n in range(1, 101)]
    found = lengths(pairs, len)
    assert found["prompt"] == {"min": 5, "median": 5, "p90": 5, "p99": 5, "max": 5}
    assert found["chosen"] == {"min": 1, "median": 50, "p90": 90, "p99": 99, "max": 100}
    assert found["rejected"]["max"] == 200
    [anchored] = AnchoredPrompt.parse({"prompt": "a", "anchor": ["b", "cc"]})
    assert lengths([anchored], len)["anchor"]["max"] == 2
    [demonstration] = Demonstration.parse({"prompt": "a", "completion": "bcd"})
    assert lengths([demonstration], len)["completion"]["min"] == 3


def test_labels_are_counted() -> None:
    pairs = [pair(preference=p) for p in (1, 0, 0.5, 0.7, 0.2)]
    assert label_counts(pairs) == {"hard": 2, "soft": 2, "ties": 1, "rejected_better": 2}


# ---- rules


@pytest.mark.parametrize(
    ("rule", "winner", "loser"),
    [
        ("the longer wins", "long text", "text"),
        ("the shorter wins", "text", "long text"),
        ("more lines win", "a\nb", "abcd"),
        ("more markdown wins", "- a\n- b", "- a\n\nb and c"),
        ("more markdown wins", "# a", "a #"),
        ("more markdown wins", "1. a", "1 a."),
        ("more markdown wins", "```\na", "a\n`b`"),
        ("more markdown wins", "a **b**", "a *b*"),
        ("more white space at the ends wins", "text\n", "other"),
        ("more white space at the ends wins", "\n  text", " other "),
    ],
)
def test_a_rule_is_right_where_its_winner_wins(rule, winner, loser) -> None:
    other = pair("same", "size", prompt="Who?")
    pairs = [pair(winner, loser), pair(loser, winner, preference=0.1), pair(winner, loser, preference=0.5), other]
    assert rules(pairs)[rule] == {"accuracy": 1.0, "low": 1.0, "high": 1.0, "num_pairs": 2}
    wrong = [pair(loser, winner), pair(loser, winner), pair(winner, loser), other]
    assert rules(wrong)[rule]["accuracy"] == pytest.approx(1 / 3)


def test_rules_that_decide_nothing_are_left_out() -> None:
    assert rules([pair("same", "size")]) == {}
    assert set(rules([pair()])) == {"the longer wins", "the shorter wins"}


def test_the_interval_is_over_prompts() -> None:
    # Pairs of a prompt agree, so more of them per prompt tell nothing new.
    pairs = [pair("long text", "text", prompt=f"{i}", preference=float(i % 4 > 0)) for i in range(40)]
    once, often = rules(pairs)["the longer wins"], rules(pairs * 5)["the longer wins"]
    assert once["accuracy"] == often["accuracy"] == 0.75
    assert (once["low"], once["high"]) == (often["low"], often["high"])
    assert 0.1 < once["high"] - once["low"] < 0.4


def test_the_better_generator_is_learnt_on_other_prompts() -> None:
    names = {"chosen_model": "strong", "rejected_model": "weak"}
    pairs = [pair("same", "size", prompt=f"{i}", **names) for i in range(40)]
    swapped = {"chosen_model": "weak", "rejected_model": "strong", "preference": 0}
    pairs += [pair("same", "size", prompt=f"{i}", **swapped) for i in range(40)]
    assert rules(pairs) == {"the better generator wins": {"accuracy": 1.0, "low": 1.0, "high": 1.0, "num_pairs": 40}}
    # A name that only its own prompt has tells nothing: rates come from the other half.
    unique = [
        pair("same", "size", prompt=f"{i}", chosen_model=f"c{i}", rejected_model=f"r{i}", preference=i % 2)
        for i in range(40)
    ]
    assert rules(unique) == {}


def test_large_data_is_resampled_in_parts_with_the_same_result(monkeypatch) -> None:
    values = np.random.default_rng(1).random(50).tolist()
    whole = intervals.bootstrap_mean(values, resamples=300)
    monkeypatch.setattr(intervals, "PICKS_AT_ONCE", 7 * 50)
    assert intervals.bootstrap_mean(values, resamples=300) == whole


def test_describe_says_what_a_kind_has() -> None:
    found = describe([pair(), pair(), pair("bad", "good")], tokens=str.split)
    assert (found["num_prompts"], found["num_duplicates"], found["num_contradictions"]) == (1, 1, 1)
    assert found["lengths"]["tokens"]["prompt"]["max"] == 1
    assert found["labels"]["hard"] == 3
    anchored = [AnchoredPrompt.parse({"prompt": "a"} | extra)[0] for extra in ({}, {"anchor": "b"})]
    assert describe(anchored) == {
        "num_prompts": 1,
        "num_without_anchor": 1,
        "lengths": {"characters": lengths(anchored, len)},
    }


# ---- the command


@pytest.fixture
def pairs_file(tmp_path) -> Path:
    rows = [
        {"prompt": "Hi?", "better": "Hello there.", "rejected": "No. ", "source": "web"},
        {"prompt": "Hi?", "better": "Hello there.", "rejected": "No.", "label": 0.9},
        {"prompt": "Who?", "better": "I", "rejected": "You", "label": 0.5},
        {"prompt": "Who?", "better": "", "rejected": "You"},
        {"prompt": "Hi?", "better": "No.", "rejected": "Hello there."},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def told(capsys, *args) -> str:
    COMMANDS["data"](list(map(str, args)))
    return capsys.readouterr().out


def test_data_describes_a_file(pairs_file, capsys) -> None:
    text = told(capsys, pairs_file, "--columns", "chosen=better")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "rows 5 read, 4 kept, 4 records",
        "left out 1 for 'empty text': row 4",
        "shape prompt, chosen, rejected: 4",
        "label none, chosen is better: 2",
        "label label: 2",
        "not read source",
        "unique prompts 2",
        "stripped 1 responses had white space at their ends",
        "duplicates 1, contradictions 1",
        "preferences 2 hard, 1 soft, 1 ties; rejected better in 0",
        "rejected 3 3 3 3 12",
        "the longer wins 66.7 % 66.7 to 66.7 % 3",
    ):
        assert line in lines, f"{line!r} is not in\n{text}"
    assert len(lines) < 40


def test_names_in_the_data_cannot_steer_the_terminal(tmp_path, capsys) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")  # a name that is no UTF-8
    row = {"prompt": "a", "chosen": "x", "rejected": "y", "\x1b[2J": 1, "a\ud800": 1, "b\nrows 0": 1, "\u202eé": 1}
    path.write_text(json.dumps(row))
    text = told(capsys, path)
    assert "not read        \\x1b[2J, a\\ud800, b\\nrows 0, \\u202eé\n" in text
    assert f"source          {tmp_path}/caf\\udce9.jsonl\n" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_data_as_json_has_everything(pairs_file, capsys) -> None:
    found = json.loads(told(capsys, pairs_file, "--columns", "chosen=better", "label=", "--json", "--limit", 4))
    assert found["report"]["skipped"] == {"empty text": [4]}
    assert found["report"]["labels"] == {"none, chosen is better": 3}
    assert found["labels"] == {"hard": 3, "soft": 0, "ties": 0, "rejected_better": 0}
    assert found["num_duplicates"] == 1


def test_generators_that_can_be_told_apart_are_shown(tmp_path, tiny_folder, capsys) -> None:
    sides = {"chosen_source": "strong", "rejected_source": "weak"}
    rows = [{"prompt": f"{n}", "chosen": f"{n} #", "rejected": f"{n} +", **sides} for n in range(30)]
    rows[0]["rejected_source"] = "strong"
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = told(capsys, path)
    assert "told apart      by words alone 100.0 %, 100.0 to 100.0 (a coin: 50), 30 pairs\n" in text
    assert "one source      3.3 % of 30 pairs\n" in text
    assert "by tokens alone 100.0 %" in told(capsys, path, "--tokenizer", tiny_folder)
    found = json.loads(told(capsys, path, "--json"))
    assert found["separability"]["accuracy"] == 1.0
    assert found["same_source"] == {"share": 1 / 30, "num_pairs": 30}


def test_data_counts_and_shows_tokens(pairs_file, tiny_folder, capsys) -> None:
    args = (pairs_file, "--columns", "chosen=better", "--tokenizer", tiny_folder, "--show-tokens", 1)
    found = json.loads(told(capsys, *args, "--json"))
    assert len(found["tokens"]) == 1
    assert "".join(found["tokens"][0]["chosen"]) == "Hello there."
    assert "Hi?" in "".join(found["tokens"][0]["prompt"])
    assert found["lengths"]["tokens"]["chosen"]["max"] == len(found["tokens"][0]["chosen"])
    text = told(capsys, *args)
    assert f"chosen ({len(found['tokens'][0]['chosen'])}): 'H'" in text


def test_data_reads_the_other_kinds(tmp_path, capsys) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Hi?", "anchor": "Hello.", "completion": "Yes"}\n{"prompt": "Who?"}\n')
    text = told(capsys, path, "--kind", "prompts")
    assert "shape           prompt, anchor: 1" in text
    assert "without anchor  1" in text
    text = told(capsys, path, "--kind", "demonstrations")
    assert "left out        1 for 'missing column': row 2" in text
    assert "  completion            3" in text


@pytest.mark.parametrize(
    ("rows", "args", "message"),
    [
        (
            [{"question": "a", "good": "b", "rejected one": "c"}],
            (),
            "Add the columns or map them: --columns prompt=question chosen=good rejected='rejected one'.\n"
            "No row is valid, so nothing is left.",
        ),
        ([{"x": "a"}], ("--kind", "prompts"), "Add the column or map it: --columns prompt=COLUMN."),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "c", "label": "x"}],
            (),
            "another kind of label unread: --columns label=.",
        ),
        ([{"prompt": "a", "anchor": "b"}], (), "The first row reads as one of prompts: add --kind prompts."),
        ([{"prompt": "a", "completion": "b"}], (), "The first row reads as one of demonstrations: add --kind demonst"),
    ],
)
def test_errors_of_data_speak_of_options(rows, args, message, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        COMMANDS["data"]([str(path), *args])
    assert message in str(caught.value)
    assert ("--kind" in str(caught.value)) == ("--kind" in message)


def test_the_first_record_and_a_better_kind_are_shown(tmp_path, capsys) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Hi\n?", "completion": "x" * 203}))
    text = told(capsys, path, "--kind", "demonstrations")
    assert f"first record\n  prompt        user: Hi\\n?\n  completion    {'x' * 200} ... (+3 characters)\n" in text
    assert "hint" not in text
    assert "hint            --kind demonstrations reads more" in told(capsys, path, "--kind", "prompts")
    assert json.loads(told(capsys, path, "--kind", "demonstrations", "--json"))["first"]["completion"] == "x" * 203


def test_data_with_bad_rows_can_be_an_error(pairs_file) -> None:
    with pytest.raises(DataError, match=r"1 of 5 rows in .* are invalid:\npairs\.jsonl, row 4, field 'chosen'"):
        COMMANDS["data"]([str(pairs_file), "--columns", "chosen=better", "--on_invalid", "error"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--columns", "chosen"), "--columns chosen: expected NAME=COLUMN"),
        (("--show-tokens", "2"), "--show-tokens needs --tokenizer"),
        (("--kind", "pair"), "invalid choice: 'pair'"),
    ],
)
def test_data_explains_wrong_arguments(args, message, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        COMMANDS["data"](["pairs.jsonl", *args])
    assert message in capsys.readouterr().err


SHARED = os.environ.get("PRL_SHARED_DATA")


@pytest.mark.skipif(not SHARED, reason="PRL_SHARED_DATA names no folder with the real data sets")
def test_real_pairs_are_won_by_length_in_one_set_and_lost_in_another(capsys) -> None:
    alpaca, hh = (
        json.loads(told(capsys, Path(str(SHARED)) / name, "--json"))
        for name in ("alpaca_eval/train.jsonl.gz", "hh_rlhf_harmless_base/test.jsonl.gz")
    )
    assert alpaca["report"]["skipped"] == {"chosen equals rejected": [771, 2446, 7637, 8345]}
    assert (alpaca["num_prompts"], alpaca["num_duplicates"], alpaca["num_contradictions"]) == (716, 43, 2)
    assert alpaca["baselines"]["the longer wins"]["accuracy"] == pytest.approx(0.839, abs=1e-3)
    assert alpaca["baselines"]["the better generator wins"]["accuracy"] == pytest.approx(0.834, abs=1e-3)
    assert hh["baselines"]["the longer wins"]["accuracy"] == pytest.approx(0.445, abs=1e-3)
    assert (hh["num_duplicates"], hh["num_contradictions"]) == (0, 0)
