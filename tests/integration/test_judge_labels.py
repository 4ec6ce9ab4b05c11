"""`prl judge --labels` and `prl judge --rewardbench` through the command line."""

import json
import shutil
from pathlib import Path

import pytest

from prl.cli.entry import main
from prl.judge import GenerativeJudge, load_judge
from prl.judge.passport import read_passport
from prl.rewards.folder import PASSPORT_FILE
from prl.rewards.folder_checks import passport_fault
from tests.integration.runs import Home
from tests.integration.test_judge_command import files, refusal


@pytest.fixture(scope="module")
def labels(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of the world with what three annotators say of them, the second of just some and wrong now and then."""
    folder, rows = tmp_path_factory.mktemp("labels"), []
    for n, line in enumerate(home.data("pairs.train").read_text().splitlines()):
        pair = json.loads(line)
        sides = [pair["chosen"], pair["rejected"]]
        turned = n % 3 == 0
        row = {"prompt": pair["prompt"], "response_a": sides[turned], "response_b": sides[not turned]}
        said = {
            "ann": "ab"[turned],
            "bob": None if n % 5 == 0 else "ab"[n % 2],
            "cid": "tie" if n % 7 == 0 else "ab"[turned],
        }
        rows.append({**row, "labels": said, "source": pair["prompt"].split()[0]})
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "labels.jsonl"


@pytest.fixture(scope="module")
def measured(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a passport beside a copy of the judge."""
    folder = tmp_path_factory.mktemp("measured") / "judge"
    shutil.copytree(home.judge, folder)
    pairs = str(home.data("pairs.train"))
    main(["judge", "--judge", str(folder), "--pairs", pairs, "--write-passport"])
    return folder


def test_agreement_on_the_screen_in_json_and_in_the_passport(
    home: Home, labels: Path, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report, before = tmp_path / "report.json", files(measured)
    capsys.readouterr()
    asked = ["judge", "--judge", str(measured), "--labels", str(labels), "--json", str(report)]
    main([*asked, "--write-passport"])
    told, found = capsys.readouterr().out, json.loads(report.read_text())
    agreement = found["agreement"]
    assert (found["data"]["file"], found["data"]["order"], found["data"]["tie_margin"]) == ("labels.jsonl", "file", 0)
    assert agreement["num_annotators"] == 3
    assert set(agreement["annotators"]) == {"ann", "bob", "cid"}
    assert told.startswith(f"generative judge and people on labels.jsonl: {agreement['num_pairs']} pairs, ")
    assert f"judge and majority: Cohen's kappa           {agreement['kappa']['mean']:8.3f}" in told
    assert "kappa of ann and the judge" in told
    assert len(told.splitlines()) < 60  # one screen
    passport = read_passport(measured)
    assert passport is not None
    assert passport["report"]["agreement"]["kappa"] == agreement["kappa"]
    assert set(agreement["kappa"]) == {"mean", "low", "high", "num"}
    assert passport["labels"]["file_sha256"] == found["data"]["file_sha256"]
    assert passport_fault(passport) is None
    assert {name for name, content in files(measured).items() if content != before.get(name)} <= {
        PASSPORT_FILE,
        "README.md",
    }
    # Measuring the same judge again keeps what people say of it.
    main(["judge", "--judge", str(measured), "--pairs", str(home.data("pairs.validation")), "--write-passport"])
    again = read_passport(measured)
    assert again is not None
    assert again["report"]["agreement"] == passport["report"]["agreement"]
    assert again["data"] != passport["data"]
    # A larger margin makes ties of the judge, which change the figures.
    main([*asked, "--tie_margin", "1000"])
    assert json.loads(report.read_text())["agreement"]["base_rates"]["judge"]["tie"] == 1


def test_what_cannot_be(home: Home, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    judge, pairs = ["judge", "--judge", str(home.judge)], str(home.data("pairs.train"))
    for args, told in (
        ([*judge, "--labels", str(labels), "--pairs", pairs], "--pairs does not go with --labels"),
        ([*judge, "--labels", str(labels), "--rewardbench", "x"], "--rewardbench does not go with --labels"),
        ([*judge, "--labels", str(labels), "--no-probes"], "--no-probes does not go with --labels"),
        ([*judge, "--rewardbench", "x", "--write-passport"], "--write-passport goes with --pairs or --labels"),
        ([*judge, "--rewardbench", "x", "--tie_margin", "1"], "--tie_margin goes with --labels"),
        ([*judge, "--pairs", pairs, "--tie_margin", "1"], "--tie_margin goes with --labels"),
        ([*judge, "--labels", str(labels), "--tie_margin", "-1"], "expected log-odds of 0 or more"),
    ):
        code, said = refusal(args, capsys)
        assert (code, told in said) == (2, True), said
    code, said = refusal([*judge, "--labels", str(labels), "--write-passport"], capsys)
    assert (code, "has no passport that could keep the agreement; write it first with `prl judge" in said) == (1, True)
    (tmp_path / "other.json").write_text('{"of": "somebody"}')
    code, said = refusal([*judge, "--labels", str(labels), "--json", str(tmp_path / "other.json")], capsys)
    assert (code, "exists and is no earlier result of this command" in said) == (1, True)
    twice = tmp_path / "twice.jsonl"
    twice.write_text(labels.read_text() + labels.read_text().splitlines()[0] + "\n")
    number = len(labels.read_text().splitlines()) + 1
    code, said = refusal([*judge, "--labels", str(twice)], capsys)
    assert (code, f"twice.jsonl, row {number}, field 'annotator': found 'ann' a second time" in said) == (1, True)
    main([*judge, "--labels", str(twice), "--on_invalid", "skip"])
    assert f"left out for 'annotated twice': row {number}\n" in capsys.readouterr().out


def test_a_passport_of_other_weights_keeps_no_agreement(
    home: Home, labels: Path, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(home.bradley_terry, folder)
    shutil.copy(measured / PASSPORT_FILE, folder)
    code, said = refusal(["judge", "--judge", str(folder), "--labels", str(labels), "--write-passport"], capsys)
    assert (code, "is of another judge (kind, " in said) == (1, True)


def test_rewardbench(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = [json.loads(line) for line in home.data("pairs.train").read_text().splitlines()][:12]
    names = ("alpacaeval-easy", "mt-bench-hard", "donotanswer", "hep-go")
    rows = [{**pair, "subset": names[n % 4], "id": n} for n, pair in enumerate(pairs)]
    one, two, report = tmp_path / "one.jsonl", tmp_path / "two.jsonl", tmp_path / "report.json"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["judge", "--judge", str(home.judge), "--json", str(report), "--rewardbench"]
    main([*asked, str(one)])
    told, found = capsys.readouterr().out, json.loads(report.read_text())
    verdict = load_judge(home.judge).compare(
        [({"role": "user", "content": pair["prompt"]},) for pair in pairs],
        *([pair[name] for pair in pairs] for name in ("chosen", "rejected")),
    )
    right = (verdict.win_logit.sign() + 1) / 2
    sections = [float(right[n::4].mean()) for n in range(4)]
    assert [each["mean"] for each in found["rewardbench"]["sections"].values()] == pytest.approx(sections, abs=1e-6)
    assert found["rewardbench"]["overall"]["mean"] == pytest.approx(sum(sections) / 4, abs=1e-6)
    assert told.startswith("generative judge on RewardBench, one.jsonl: 12 rows\n")
    assert "subsets that this file lacks: alpacaeval-length, " in told
    lists = {name: [pair[name]] for name in ("chosen", "rejected")} if (pair := pairs[0]) else {}
    two.write_text("".join(json.dumps({**row, **lists, "subset": "Math"}) + "\n" for row in rows[:3]))
    main([*asked, str(two)])
    told = capsys.readouterr().out
    assert told.startswith("generative judge on RewardBench 2, two.jsonl: 3 rows\n")
    assert "  not measured: subsets are missing" in told
    two.write_text(one.read_text() + two.read_text())
    code, said = refusal([*asked, str(two)], capsys)
    assert (code, "found a list (mixed versions); expected rows of one version of the benchmark" in said) == (1, True)


def test_the_screen_says_which_annotators_it_leaves_out(
    home: Home, labels: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prl.evaluation.judge.people.MOST_ALONE", 2)
    monkeypatch.setattr("prl.cli.commands.judge_labels.SHOWN", 1)
    main(["judge", "--judge", str(home.judge), "--labels", str(labels)])
    told = capsys.readouterr().out
    assert "kappa of ann and the judge" in told
    assert "kappa of cid" not in told
    assert "and 1 more annotators, which --json has\nannotators of fewer pairs, who are in all figures above" in told


def test_what_is_wrong_with_the_weights_is_told_before_anything_is_judged(
    home: Home, labels: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prl.judge.lineage._weight_files", lambda _: [])
    monkeypatch.setattr(GenerativeJudge, "margins", lambda *_: pytest.fail("judged first"))
    rows = [json.loads(line) for line in home.data("pairs.train").read_text().splitlines()]
    bench = labels.with_name("bench.jsonl")
    bench.write_text("".join(json.dumps({**row, "subset": "hep-go", "id": 1}) + "\n" for row in rows))
    for form, file in (("--labels", labels), ("--rewardbench", bench)):
        code, said = refusal(["judge", "--judge", str(home.judge), form, str(file)], capsys)
        assert (code, "so there is nothing to measure" in said) == (1, True), said
