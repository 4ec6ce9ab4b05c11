"""`prl arena`: files, policies, checkpoints and runs on one scale; and the arena of the validations of a run."""

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.callbacks import RunArena
from prl.cli.entry import main
from prl.judge import Judge
from tests.helpers.tiny import write_tiny_model
from tests.integration.runs import Home, Interrupt, InterruptedRun, callback, differences, state_of
from tests.integration.test_two_processes import run as train

EVERY = ("--trainer.val_check_interval", "1")
ARENA = (callback(RunArena, comparisons=6), *EVERY)
SAMPLING = ("--max_new_tokens", "5", "--limit", "12", "--sample_batch", "6", "--block", "8")


def command(home: Home, out: Path, *players: str, budget: int = 30, judge: Path | None = None) -> list[str]:
    given = ["arena", "--judge", str(judge or home.judge), "--prompts", str(home.data("prompts.train"))]
    return [*given, "--players", *players, "--budget", str(budget), "--out", str(out), *SAMPLING]


def read(out: Path) -> dict:
    return json.loads((out / "arena.json").read_text())


@pytest.fixture(scope="module")
def run(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a policy shortly, with an arena of its validations."""
    folder = tmp_path_factory.mktemp("arena") / "run"
    home.run("pairwise_ppo", folder, *ARENA)
    return folder


@pytest.mark.slow
def test_files_policies_and_a_run_play_and_the_folder_goes_on(home: Home, run: Path, tmp_path: Path, capsys) -> None:
    prompts = [json.loads(line) for line in home.data("prompts.train").read_text().splitlines()[:12]]
    rows = [{"prompt": row["prompt"], "response": "abc", "model": model} for row in prompts for model in "xy"]
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    players = [f"file={tmp_path / 'given.jsonl'}", f"policy={home.policy}", f"run={run}"]
    out = tmp_path / "out"
    main(command(home, out, *players))
    told = capsys.readouterr().out
    names = {player["name"] for player in read(out)["players"]}
    assert names == {"file.x", "file.y", "policy", "run@2", "run@4"}
    assert all(name in told for name in names)
    assert "hit --max_new_tokens" in told
    between = next(pair for pair in read(out)["pairs"] if (pair["a"], pair["b"]) == ("file.x", "file.y"))
    assert between["ties"] == between["comparisons"] > 0
    assert sorted(path.name for path in out.iterdir()) == [
        *(".lock", "arena.json", "arena.png", "comparisons.jsonl", "responses", "settings.json")
    ]
    whole = read(out), (out / "comparisons.jsonl").read_bytes()
    lines = [json.loads(line) for line in whole[1].splitlines()]
    line = next(each for each in lines if each["a"] == "file.x" and each["b"] == "run@4")
    response = json.loads((out / "responses" / "run@4.jsonl").read_text().splitlines()[line["prompt"]])["response"]
    verdict = Judge.from_pretrained(home.judge).compare([prompts[line["prompt"]]["prompt"]], ["abc"], [response])
    assert float(verdict.margin_ab) == pytest.approx(line["margin_ab"], abs=1e-4)
    assert float(verdict.margin_ba) == pytest.approx(line["margin_ba"], abs=1e-4)
    # Nothing is sampled or judged again, and half a file goes on to the same one.
    (out / "comparisons.jsonl").write_bytes(whole[1][: len(whole[1]) // 2])
    (out / "arena.json").unlink()
    main(command(home, out, *players))
    assert (read(out), (out / "comparisons.jsonl").read_bytes()) == whole
    for wrong, word in (
        (command(home, out, *players[:2]), r"other players \(run@2\)"),
        (command(home, out, *players, judge=home.bradley_terry), r"other judge \(kind\)"),
        ([*command(home, out, *players), "--seed", "2"], r"other players \(policy\)"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert re.search(word, capsys.readouterr().err)
    assert read(out) == whole[0]


def test_mistakes_are_told_before_anything_is_sampled(home: Home, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("prl.arena.responses.PromptSampler", lambda *_, **__: 1 / 0)
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    good = [f"a={home.policy}", f"b={home.judge}"]
    for line, told in (
        (
            command(home, tmp_path / "o", "a=nowhere/there/at-all", good[1]),
            "--players a=nowhere/there/at-all: expected",
        ),
        (command(home, tmp_path / "o", f"a={tmp_path / 'two.txt'}", good[1]), "has 2 responses to 12 prompts"),
        (command(home, tmp_path / "o", good[0], good[0]), "names a twice"),
        (command(home, tmp_path / "o", good[0]), "names 1 player"),
        (command(home, tmp_path / "o", *good, f"c={home.policy}", budget=2), "is less than the 3 pairs"),
        (command(home, tmp_path / "full", *good), "holds something already, and no arena"),
        (command(home, tmp_path / "o", "a b=c", good[1]), "expected NAME=PATH"),
        ([*command(home, tmp_path / "o", *good), "--max_prompt_length", "2"], "--players a: prompt 1 of"),
        (command(home, tmp_path / "o", *good, judge=tmp_path / "full"), "is not a judge"),
    ):
        with pytest.raises(SystemExit):
            main(line)
        assert told in capsys.readouterr().err, told
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_single_checkpoint_and_a_judge_of_its_own_kind_play(home: Home, run: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=7)
    checkpoint = sorted((run / "checkpoints").glob("batch-*.ckpt"))[0]
    line = command(home, tmp_path / "out", f"c={checkpoint}", f"o={other}", judge=home.bradley_terry, budget=8)
    main([*line, "--outcome", "wins", "--pairing", "uniform", "--verdict_store", str(tmp_path / "store")])
    assert (tmp_path / "store").is_dir()
    assert read(tmp_path / "out")["outcome"] == "wins"
    assert read(tmp_path / "out")["comparisons"] == 8


def check_verdicts(home: Home, run: Path, number: int) -> None:
    """Compare the first lines of a run's arena with what its judge says of the responses that validations keep."""
    samples = {
        batch: [json.loads(line) for line in (run / "samples" / f"batch={batch:06d}.jsonl").open()]
        for batch in (1, 2, 3, 4)
    }
    judge = Judge.from_pretrained(home.judge).model  # which reads responses as validations do, with their spaces
    for row in [json.loads(line) for line in (run / "arena" / "comparisons.jsonl").open()][:number]:
        both = [samples[int(row[name][-1])][row["prompt"]] for name in ("a", "b")]
        verdict = judge.compare([both[0]["prompt"]], [both[0]["response"]], [both[1]["response"]])
        assert float(verdict.margin_ab) == pytest.approx(row["margin_ab"], abs=1e-4)


def test_validations_of_a_run_join_its_arena(home: Home, run: Path) -> None:
    report = read(run / "arena")
    assert {player["name"] for player in report["players"]} == {f"batch={number}" for number in (1, 2, 3, 4)}
    assert report["comparisons"] == 18
    assert report["newest"] == "batch=4"
    scores = {player["name"]: player["score"] for player in report["players"]}
    assert report["above_first"]["difference"] == pytest.approx(scores["batch=4"] - scores["batch=1"])
    rows = [json.loads(line) for line in (run / "arena" / "comparisons.jsonl").read_text().splitlines()]
    joined = [max(row["a"], row["b"]) for row in rows]
    assert joined == [f"batch={number}" for number in (2, 3, 4) for _ in range(6)]
    check_verdicts(home, run, 3)
    assert (run / "arena" / "arena.png").exists()
    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"arena/above_first", "arena/rank", "arena/circles"} <= tags
    assert len(events.Scalars("arena/rank")) == 3


@pytest.mark.slow
def test_a_resumed_run_has_the_same_arena_and_the_same_training(home: Home, run: Path, tmp_path: Path) -> None:
    home.run("pairwise_ppo", tmp_path / "plain", *EVERY)
    assert not (tmp_path / "plain" / "arena").exists()
    assert differences(state_of(tmp_path / "plain"), state_of(run)) == []
    with pytest.raises(InterruptedRun):
        home.run("pairwise_ppo", tmp_path / "cut", *ARENA, callback(Interrupt, batch=3))
    home.run("pairwise_ppo", tmp_path / "cut", *ARENA, "--ckpt_path", "last")
    for name in ("arena.json", "comparisons.jsonl"):
        assert (tmp_path / "cut" / "arena" / name).read_bytes() == (run / "arena" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_have_one_arena_of_the_responses_of_both(home: Home, tmp_path: Path) -> None:
    validated = ("--trainer.limit_val_batches", "1.0", "--data.init_args.validation_batch_size", "4")
    train(home, "pairwise_ppo", tmp_path, 2, *ARENA, *validated)
    assert read(tmp_path / "arena")["comparisons"] == 18
    check_verdicts(home, tmp_path, 18)


def test_a_run_without_a_judge_is_refused(home: Home, tmp_path: Path) -> None:
    rule = {"class_path": "RuleReward", "init_args": {"rule": "tests.integration.test_pairs_command.vowels"}}
    with pytest.raises(ValueError, match="RunArena, and the run has no judge"):
        home.run(
            "pairwise_ppo",
            *(tmp_path / "run", *ARENA, "--model.init_args.reward", json.dumps(rule)),
            *("--trainer.limit_val_batches", "0"),
        )
