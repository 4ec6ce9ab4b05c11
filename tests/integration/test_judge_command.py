"""`prl judge`, the passport at the end of a judge's training, and the gate of PPO, through the command line."""

import hashlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prl.cli.commands.judge import read_lines
from prl.cli.entry import main
from prl.config import JudgeGate
from prl.data import DataSource, PreferencePair, load_records, prompt_key
from prl.judge import GenerativeJudge, Judge, load_judge
from prl.judge.gate import broken_limits
from prl.judge.lineage import weights_hash
from prl.judge.run_gate import prompt_overlap
from prl.judge.training_record import read_training
from prl.rewards.folder import PASSPORT_FILE
from tests.helpers.tiny import write_tiny_model
from tests.integration.runs import Home

MODEL = "--model.init_args."


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(args: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Return the exit code of the command line, and its output on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main(args)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return ending.value.code, told


# ---- prl judge


def test_a_judge_that_thinks_first(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = tmp_path / "report.json"
    args = ["judge", "--judge", str(home.judge), "--pairs", str(home.data("pairs.validation")), "--json", str(report)]
    main([*args, "--no-probes", "--reasoning", '{"max_tokens": 4, "samples": 2, "closing": "\\n"}'])
    found = json.loads(report.read_text())
    assert found["judge"]["reasoning"]["max_tokens"] == 4
    reasons = found["report"]["reasons"]
    assert reasons["samples"]["2"]["accuracy"] == found["report"]["accuracy"]
    assert 2 * 2 <= reasons["tokens"]["mean"] <= 2 * 2 * 4
    shown = capsys.readouterr().out
    assert "by thoughts of a reading" in shown
    assert "thoughts closed at their limit" in shown
    code, told = refusal([*args, "--reasoning", '{"max_tokens": 0}'], capsys)
    assert (code, "reasoning.max_tokens is 0; expected a whole number of at least 1" in told) == (2, True)
    args[2] = str(home.bradley_terry)
    code, told = refusal([*args, "--reasoning", "{}"], capsys)
    assert "reasoning is of a generative judge" in told


@pytest.mark.parametrize("kind", ["judge", "bradley_terry"])
def test_measuring_a_judge(kind: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, report = getattr(home, kind), tmp_path / "report.json"
    before = files(folder)
    main(["judge", "--judge", str(folder), "--pairs", str(home.data("pairs.train")), "--json", str(report)])
    assert files(folder) == before
    found = json.loads(report.read_text())["report"]
    pairs = load_records(DataSource(str(home.data("pairs.train"))), PreferencePair).records
    verdict = load_judge(folder).compare(
        [p.prompt for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs]
    )
    assert found["num_pairs"] == len(pairs) == 32
    right = (verdict.win_logit.sign() + 1) / 2
    assert found["accuracy"]["mean"] == pytest.approx(float(right.mean()), abs=1e-6)
    assert found["order_gap"]["mean"] == pytest.approx(float(verdict.order_gap.mean()), abs=1e-5)
    shown = capsys.readouterr().out
    assert f"accuracy, both orders averaged      {found['accuracy']['mean']:8.3f}" in shown
    head, limits, *broken = shown.partition("\n\n")[0].splitlines()
    assert broken == [f"- {problem}" for problem in broken_limits(found, JudgeGate())] != []
    # No prompt has three responses here, so there is no cycle to limit.
    assert head == f"not good enough to train a policy: {len(broken)} of the gate's 9 limits broken"
    assert limits.startswith("limits: min_pairs 50, min_accuracy 0.6, ")
    assert len(shown.splitlines()) < 50  # one screen


def test_the_reward_that_a_policy_implies_is_measured_like_a_judge(home: Home, tmp_path: Path, capsys) -> None:
    """A policy beside its reference; beside itself it is no judge at all, which is a tie."""
    write_tiny_model(tmp_path / "policy", seed=5, tie_word_embeddings=True)
    start, pairs, report = str(home.policy), str(home.data("pairs.train")), tmp_path / "report.json"
    with_reference = ["judge", "--pairs", pairs, "--reference", start, "--json", str(report), "--no-probes", "--judge"]
    main([*with_reference, str(tmp_path / "policy"), "--beta", "0.5"])
    told, found = capsys.readouterr().out, json.loads(report.read_text())
    assert "implicit judge on pairs.train.jsonl: 32 pairs" in told
    assert (found["judge"]["kind"], found["judge"]["beta"]) == ("implicit", 0.5)
    policy = Judge.from_pretrained(tmp_path / "policy", reference=start, beta=0.1)
    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    verdict = policy.compare(*([row[name] for row in rows] for name in ("prompt", "chosen", "rejected")))
    assert found["report"]["margin"]["mean"] == pytest.approx(5 * float(verdict.win_logit.mean()), abs=1e-4)
    main([*with_reference, start])
    assert json.loads(report.read_text())["report"]["accuracy"]["mean"] == 0.5
    code, told = refusal(["judge", "--judge", start, "--pairs", pairs, "--per_token"], capsys)
    assert (code, "--beta and --per_token go with --reference" in told) == (2, True)
    code, told = refusal([*with_reference, start, "--beta", "0"], capsys)
    assert (code, "beta is 0" in told) == (1, True)
    code, told = refusal([*with_reference[:-2], "--judge", start, "--write-passport"], capsys)
    assert (code, "--write-passport is of a judge in one folder" in told) == (2, True)


def turned_rows(rows: list[dict]) -> list[dict]:
    """Write the data with every pair the other way round."""
    return [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"], "preference": 1 - row["preference"]}
        for row in rows
    ]


@pytest.mark.parametrize("kind", ["judge", "bradley_terry"])
def test_swapping_every_pair_of_a_file_changes_no_reported_bit(kind: str, home: Home, tmp_path: Path) -> None:
    labels = itertools.cycle([1.0, 0.0, 0.7, 0.5, 0.1])
    prompts = ["copy abc", "reverse xyz", "sort dcba", "copy q"]
    # Seven responses to a prompt: more than a round robin takes, so it matters which come first.
    texts = ["abc", "cba", "a", "xyzzy", "q", "abcd", "zzzzzz"]
    rows = [
        {"prompt": prompt, "chosen": u, "rejected": v, "preference": next(labels), "source": f"half {n % 2}"}
        for n, prompt in enumerate(prompts)
        for u, v in zip(texts, [*texts[1:], texts[0]], strict=True)
    ]
    reports = []
    for name, version in (("there", rows), ("back", turned_rows(rows))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in version))
        out = tmp_path / f"{name}.json"
        main(["judge", "--judge", str(getattr(home, kind)), "--pairs", str(path), "--json", str(out)])
        reports.append(json.loads(out.read_text()))
    there, back = reports
    assert there["report"] == back["report"]
    assert there["report"]["num_ties"] == 5
    assert there["report"]["scale_fit"]["num"] == 4
    assert there["data"]["pairs_sha256"] == back["data"]["pairs_sha256"]
    assert there["data"]["file_sha256"] != back["data"]["file_sha256"]


@pytest.mark.parametrize("kind", ["judge", "bradley_terry"])
def test_swapping_two_files_of_responses_turns_the_margins(kind: str, home: Home, tmp_path: Path) -> None:
    for name, lines in (("prompts", ["copy abc", "sort cab", "copy q"]), ("u", ["abc", "cab", "qq"]), ("v", "xyz")):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    found = []
    for responses, anchors in ("uv", "vu"):
        args = ["--prompts", "prompts", "--responses", responses, "--anchors", anchors, "--json", "out.jsonl"]
        args = [part if part.startswith("--") else str(tmp_path / part) for part in args]
        main(["judge", "--judge", str(getattr(home, kind)), *args])
        found.append([json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()])
    judge = Judge.from_pretrained(getattr(home, kind))
    verdict = judge.compare(["copy abc", "sort cab", "copy q"], ["abc", "cab", "qq"], ["x", "y", "z"])
    columns = {"win_prob": verdict.win_prob, "margin": verdict.win_logit, "order_gap": verdict.order_gap}
    for there, back in zip(*found, strict=True):
        # Rows of a batch may stand in another order, so the last bits of float32 may differ.
        assert back["margin"] == pytest.approx(-there["margin"], abs=1e-5)
        assert back["win_prob"] == pytest.approx(1 - there["win_prob"], abs=1e-5)
        assert back["order_gap"] == pytest.approx(there["order_gap"], abs=1e-5)
    for name, values in columns.items():
        assert [row[name] for row in found[0]] == values.tolist()  # Python and the command line say the same


def test_figures(home: Home, tmp_path: Path) -> None:
    pairs, folder = str(home.data("pairs.train")), tmp_path / "some" / "figures"
    main(["judge", "--judge", str(home.judge), "--pairs", pairs, "--figures", str(folder)])
    found = files(folder)
    assert found.keys() == {"reliability.png", "margins.png", "orders.png", "accuracy_by_length.png"}
    assert all(content.startswith(b"\x89PNG") for content in found.values())


def test_without_probes_the_pairs_are_judged_and_nothing_else(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_read: list[int] = []
    margins = GenerativeJudge.margins
    monkeypatch.setattr(
        GenerativeJudge, "margins", lambda self, rows: num_read.append(len(rows)) or margins(self, rows)
    )
    reports = {}
    for name, options in {"whole": [], "quick": ["--no-probes"]}.items():
        num_read.clear()
        args = ["--judge", str(home.judge), "--pairs", str(home.data("pairs.validation")), *options]
        main(["judge", *args, "--json", str(tmp_path / name)])
        reports[name] = json.loads((tmp_path / name).read_text())["report"]
    assert num_read == [2 * reports["quick"]["num_pairs"]]
    missing = reports["whole"].keys() - reports["quick"].keys()
    assert missing >= {"canaries", "canary_rate", "layout_gap", "cyclic_triples"}
    for name in reports["quick"].keys() - {"cut_share"}:  # that one counts the attacks too
        assert reports["quick"][name] == reports["whole"][name]


def test_bad_rows_are_named_or_left_out_by_number(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [json.loads(line) for line in home.data("pairs.validation").read_text().splitlines()]
    rows[2]["chosen"] = " "
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["judge", "--judge", str(home.judge), "--pairs", str(path), "--no-probes"]
    with pytest.raises(SystemExit):
        main(args)
    assert "row 3" in capsys.readouterr().err
    main([*args, "--on_invalid", "skip"])
    shown = capsys.readouterr().out
    assert "left out for 'empty text': row 3" in shown
    assert f"{len(rows) - 1} pairs" in shown


def test_passport_and_fewer_pairs(home: Home, tmp_path: Path) -> None:
    folder = shutil.copytree(home.judge, tmp_path / "judge")
    main(
        ["judge", "--judge", str(folder), "--pairs", str(home.data("pairs.train")), "--max_pairs", "10"]
        + ["--write-passport"]
    )
    passport = json.loads((folder / PASSPORT_FILE).read_text())
    assert passport["data"]["num_pairs"] == passport["report"]["num_pairs"] == 10


def test_comparing_line_by_line(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = {
        "prompts.txt": ["reverse abc", "copy xy", "reverse abc"],
        "responses.txt": ["cba", " xy ", "abc"],
        "anchors.txt": ["abc", "yx", "cba"],
    }
    for name, lines in texts.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in texts["prompts.txt"]))
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts["responses.txt"]))
    out = tmp_path / "out.jsonl"
    base = ["judge", "--judge", str(home.judge), "--anchors", str(tmp_path / "anchors.txt"), "--json", str(out)]
    main([*base, "--prompts", str(tmp_path / "prompts.txt"), "--responses", str(tmp_path / "responses.txt")])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    prompts = [[{"role": "user", "content": text}] for text in texts["prompts.txt"]]
    verdict = load_judge(home.judge).compare(prompts, ["cba", "xy", "abc"], texts["anchors.txt"])
    torch.testing.assert_close(torch.tensor([row["win_prob"] for row in rows]), verdict.win_prob)
    torch.testing.assert_close(torch.tensor([row["margin"] for row in rows]), verdict.win_logit)
    torch.testing.assert_close(torch.tensor([row["order_gap"] for row in rows]), verdict.order_gap)
    assert rows[0]["win_prob"] + rows[2]["win_prob"] == pytest.approx(1, abs=1e-6)
    *table, cut = capsys.readouterr().out.splitlines()
    assert (len(table), cut.split()[:2]) == (5, ["cut", "0.000"])
    main([*base, "--prompts", str(tmp_path / "p.jsonl"), "--responses", str(tmp_path / "r.jsonl")])
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "give either --pairs, or --prompts"),
        (["--pairs", "PAIRS", "--prompts", "PAIRS"], 2, "give either --pairs, or --prompts"),
        (
            ["--prompts", "PAIRS", "--responses", "PAIRS", "--anchors", "PAIRS", "--max_pairs", "3"],
            2,
            "--max_pairs goes with --pairs",
        ),
        (["--prompts", "PAIRS", "--responses", "PAIRS", "--anchors", "PAIRS", "--columns", "a=b"], 2, "--columns goes"),
        (
            ["--prompts", "PAIRS", "--responses", "PAIRS", "--anchors", "PAIRS", "--on_invalid", "skip"],
            2,
            "--on_invalid skip does not go with --prompts",
        ),
        (["--pairs", "PAIRS", "--reference", "FOLDER", "--no-chat"], 2, "--no-chat does not go with --reference"),
        (["--pairs", "PAIRS", "--reference", "FOLDER", "--template", "ONE"], 2, "--template does not go with"),
        (["--pairs", "PAIRS", "--reference", "FOLDER", "--reasoning", "{}"], 2, "--reasoning does not go with"),
        (["--pairs", "PAIRS", "--max_length", "0"], 2, "--max_length: 0: expected a number of at least 1"),
        (["--pairs", "PAIRS", "--columns", "label=labl"], 1, "columns maps label to 'labl', which no row of"),
        (["--pairs", "PAIRS", "--max_pairs", "0"], 2, "--max_pairs: 0: expected a number of at least 1"),
        (["--pairs", "PAIRS", "--split", "train"], 1, "is a local file and has no split"),
        (["--pairs", "PAIRS", "--json", "FOLDER"], 1, "is a folder; expected a file"),
        (["--pairs", "PAIRS", "--figures", "ONE"], 1, "cannot be made a folder (File exists); choose another"),
        (["--pairs", "nothing.jsonl"], 1, "no data file at nothing.jsonl"),
        (["--judge", "no/where", "--pairs", "PAIRS", "--write-passport"], 2, "writes into the judge's folder"),
        (["--prompts", "PAIRS", "--responses", "PAIRS", "--anchors", "PAIRS"], 1, "an object with 'response'"),
        (["--prompts", "ONE", "--responses", "TWO", "--anchors", "TWO"], 1, "one has 1, "),
        (["--prompts", "TWO", "--responses", "LATIN", "--anchors", "TWO"], 1, "latin, line 2: not text in UTF-8"),
        (["--prompts", "gone", "--responses", "TWO", "--anchors", "TWO"], 1, "gone does not exist"),
    ],
)
def test_mistakes(
    args: list[str], code: int, words: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "one").write_text("a\n")
    (tmp_path / "two").write_text("a\nb\n")
    (tmp_path / "latin").write_bytes("a\nä\n".encode("latin-1"))
    places = {name.upper(): tmp_path / name for name in ("one", "two", "latin")}
    places |= {"PAIRS": home.data("pairs.train"), "FOLDER": tmp_path}
    found, told = refusal(
        ["judge", "--judge", str(home.judge), *(str(places.get(each, each)) for each in args)], capsys
    )
    assert found == code
    assert words in told


def test_results_that_cannot_be_written_are_no_surprise(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = ["judge", "--judge", str(home.judge), "--pairs", str(home.data("pairs.validation")), "--no-probes"]
    out = tmp_path / "some" / "new" / "report.json"
    main([*pairs, "--json", str(out), "--columns", "chosen=rejected", "rejected=chosen"])
    there = json.loads(out.read_text())["report"]["accuracy"]["mean"]
    main([*pairs, "--json", str(out)])
    assert json.loads(out.read_text())["report"]["accuracy"]["mean"] == pytest.approx(1 - there)
    monkeypatch.setattr(Judge, "from_pretrained", lambda *_: pytest.fail("read the judge first"))
    assert refusal([*pairs, "--json", str(tmp_path)], capsys)[0] == 1


def test_a_line_ends_where_an_editor_says(tmp_path: Path) -> None:
    """Other separators of Unicode inside a text would shift every line after it."""
    (tmp_path / "a.txt").write_bytes("\ufeffone\u2028a\x85b\x0cc\r\n\r\ntwo\rthree".encode())
    assert read_lines(tmp_path / "a.txt", "response") == ["one\u2028a\x85b\x0cc", "", "two\rthree"]
    turns = [{"role": "assistant", "content": "x\u2028y"}]
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"response": turns}) + "\n" + json.dumps("x\u2028y", ensure_ascii=False)
    )
    assert read_lines(tmp_path / "a.jsonl", "response") == [turns, "x\u2028y"]


def test_a_folder_that_is_no_judge(home: Home, capsys: pytest.CaptureFixture) -> None:
    pairs = home.data("pairs.train")
    code, told = refusal(["judge", "--judge", str(pairs.parent), "--pairs", str(pairs)], capsys)
    assert code == 1
    assert "is not a judge" in told


# ---- at the end of training


@pytest.mark.parametrize("stage", ["generative_reward", "bradley_terry"])
def test_training_leaves_the_passport_that_the_command_writes(stage: str, home: Home, tmp_path: Path) -> None:
    attacks = ["--data.init_args.attacks", '{"share": 0.5, "held_out": ["claims"]}', f"{MODEL}max_length", "256"]
    home.run(stage, tmp_path, f"{MODEL}passport_pairs", "6", *attacks)
    folder = tmp_path / "model"
    record = read_training(folder)
    assert record is not None
    assert record["attacks"]["held_out"] == ["claims"]
    rows = load_records(DataSource(str(home.data("pairs.train"))), PreferencePair).records
    keys = np.array([bytes.fromhex(prompt_key(row.prompt)) for row in rows], "S32")
    assert (record["prompts"]["num"], prompt_overlap(record, keys)) == (len(np.unique(keys)), 1.0)
    assert record["base"] == {"name": None, "weights_sha256": weights_hash(home.policy)}
    found = (folder / PASSPORT_FILE).read_bytes()
    assert json.loads(found)["data"]["num_pairs"] == 6
    pairs = str(home.data("pairs.validation"))
    main(["judge", "--judge", str(folder), "--pairs", pairs, "--max_pairs", "6", "--write-passport"])
    assert (folder / PASSPORT_FILE).read_bytes() == found


def test_training_without_a_passport(home: Home, tmp_path: Path) -> None:
    home.run("bradley_terry", tmp_path, f"{MODEL}passport_pairs", "0", "--trainer.max_steps", "1")
    assert not (tmp_path / "model" / PASSPORT_FILE).exists()


# ---- the gate


def test_a_refused_judge_ends_with_3_before_any_weights_are_read(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", reading)
    args = home.arguments("pairwise_ppo", tmp_path / "run", f"{MODEL}judge_gate.mode", "refuse")
    code, told = refusal(args, capsys)
    assert code == 3
    assert "prl: JudgeRefusedError: " in told
    assert f"there is no {PASSPORT_FILE}" in told
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_random_judge_is_refused_for_what_was_measured(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(home.judge, tmp_path / "judge")
    main(["judge", "--judge", str(folder), "--pairs", str(home.data("pairs.train")), "--write-passport"])
    args = ["pairwise_ppo", tmp_path / "run", f"{MODEL}reward.init_args.path", str(folder)]
    args += [f"{MODEL}judge_gate.mode", "refuse", f"{MODEL}judge_gate.min_accuracy", "0.99"]
    code, told = refusal(home.arguments(*args), capsys)
    assert code == 3
    assert "min_accuracy is 0.99" in told
    assert "only 32 labelled pairs" in told


def test_a_warned_run_trains(home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cli = home.run("pairwise_ppo", tmp_path, f"{MODEL}iterations", "1")
    assert cli.trainer.global_step > 0
    assert any(f"there is no {PASSPORT_FILE}" in record.getMessage() for record in caplog.records)


# ---- prl judge --calibrate


def test_calibrating_a_plain_model(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plain = write_tiny_model(tmp_path / "lm", 5, max_position_embeddings=2048)
    template, pairs = tmp_path / "template.txt", str(home.data("pairs.train"))
    template.write_text("{{ prompt }}\n{{ response_a }}\n{{ response_b }}\n")
    args = ["judge", "--judge", str(plain), "--template", str(template), "--verdicts", "C", "D", "--no-chat"]
    code, told = refusal([*args, "--calibrate", pairs], capsys)
    assert (code, "--output the folder to write: give both" in told) == (2, True)
    to, report = ["--calibrate", pairs, "--output", str(tmp_path / "calibrated")], tmp_path / "report.json"
    code, told = refusal([*args, *to, "--json", str(tmp_path / "calibrated" / "r.json")], capsys)
    assert (code, "lies in the folder of --output" in told) == (2, True)
    code, told = refusal([*args, *to], capsys)
    assert (code, "no temperature fits, the search ended at 100: its margins say no more than a coin" in told) == (
        1,
        True,
    )
    assert not (tmp_path / "calibrated").exists()
    turned = ["--columns", "chosen=rejected", "rejected=chosen"]  # of which this random model knows something
    main([*args, *to, *turned, "--json", str(report)])
    shown = capsys.readouterr().out
    found = json.loads(report.read_text())
    figures = found["calibration"]
    for name in ("temperature", "position_offset"):
        cells = next(line for line in shown.splitlines() if line.startswith(name.replace("_", " "))).split()
        assert f"{figures[name]['mean']:.3f}" in cells
        assert f"{figures[name]['high']:.3f}" in cells
    assert found["data"]["num_pairs"] == 32
    assert figures["before"]["accuracy"] == figures["after"]["accuracy"]
    assert figures["after"]["nll"] <= figures["before"]["nll"]
    report.write_text('{"prl": "1", "judge": {}, "data": {}, "report": {}}')  # of --pairs
    code, told = refusal([*args, "--calibrate", pairs, "--output", "new", "--json", str(report)], capsys)
    assert (code, "exists and is no earlier result of this command" in told) == (1, True)
    assert "position offset" in shown
    main(["judge", "--judge", str(tmp_path / "calibrated"), "--pairs", pairs, "--no-probes"])
    report = capsys.readouterr().out
    after = next(line for line in shown.splitlines() if line.startswith("order gap")).split()[-1]
    assert next(line for line in report.splitlines() if line.startswith("order gap")).split()[2] == after
    assert Judge.from_pretrained(tmp_path / "calibrated").model.verdict_words == ("C", "D")
    code, told = refusal([*args, "--calibrate", pairs, "--output", str(tmp_path / "calibrated")], capsys)
    assert "holds something already" in told


def test_weights_in_the_older_format_are_measured_too(home: Home, tmp_path: Path) -> None:
    folder = shutil.copytree(home.judge, tmp_path / "judge")
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    pairs = str(home.data("pairs.validation"))
    main(["judge", "--judge", str(folder), "--pairs", pairs, "--no-probes", "--json", str(tmp_path / "report.json")])
    found = json.loads((tmp_path / "report.json").read_text())["judge"]["weights_sha256"]
    assert found == hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
