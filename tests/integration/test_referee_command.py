"""`prl referee`: rankings as questions to a policy, which then learns to answer them and to score its own responses."""

import json
from pathlib import Path
from typing import Any

import pytest

from prl.cli.entry import main
from prl.data import AnchoredPrompt, DataError, DataSource, load_records
from prl.judge.referee_prompt import kendall_tau, read_scores, referee_prompt
from tests.integration.runs import CONFIGS, Home, Numbers, callback, find_callback

MODEL = "--model.init_args."


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_ask_for_the_ranking_in_the_order_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = [
        {"prompt": "sort cab", "completions": ["abc", "acb", "cab"], "scores": [9, 4, 1], "answer": "abc"},
        {"prompt": "sort cab", "completions": ["abc", "acb", "cab"], "rank": [1, 2, 3]},
        {"prompt": "copy x", "chosen": "x", "rejected": "y"},
        {"prompt": "copy x", "chosen": "y", "rejected": "x", "preference": 0.2},
        {"prompt": "copy x", "chosen": "y", "rejected": "x", "preference": 0.5},
        {"prompt": "copy x", "completions": ["x", "y"], "scores": [2, 2]},
    ]
    pairs = write(tmp_path / "pairs.jsonl", given)
    for name, *more in (("a",), ("b",), ("c", "--seed", "1", "--scale", "0", "4", "--instruction", "Rank.")):
        main(["referee", pairs, "--output", str(tmp_path / f"{name}.jsonl"), *more])
    out = capsys.readouterr().out
    assert f"wrote 4 prompts to {tmp_path / 'a.jsonl'}\n       2 left out, whose responses are all ranked alike" in out
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    made = rows(tmp_path / "a.jsonl")
    worth = {"abc": 3, "acb": 2, "cab": 1, "x": 2, "y": 1}
    for row, source in zip(made, given, strict=False):
        assert row.keys() == {"prompt", "anchor", "gold_scores"}
        shown = [part.partition("\n")[2].partition("\n\n")[0] for part in row["prompt"].split("# Response ")[1:]]
        turn = ({"role": "user", "content": source["prompt"]},)
        assert row["prompt"] == referee_prompt(turn, shown)[0]["content"]
        for found in (row["gold_scores"], read_scores(row["anchor"], len(shown))):
            assert kendall_tau([worth[text] for text in shown], found) == 1
    assert made[1]["gold_scores"] != made[0]["gold_scores"]  # ranks are turned round
    other = rows(tmp_path / "c.jsonl")[0]
    assert other["prompt"].startswith("Rank.")
    assert sorted(other["anchor"].split()) == ["0", "2", "4"]
    assert len(load_records(DataSource(str(tmp_path / "a.jsonl")), AnchoredPrompt).records) == 4


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "x", "completions": ["a", "b"], "scores": [2]}])
    for more, message in (
        (["--output", "out.txt"], "expected a name that ends in .jsonl"),
        (["--output", str(tmp_path / "o.jsonl")], "1 for 2 completions"),
        (["--output", str(tmp_path / "o.jsonl"), "--scale", "2", "1"], "--scale is [2.0, 1.0]; expected two finite"),
        (["--output", pairs], "pairs.jsonl"),
    ):
        with pytest.raises((SystemExit, DataError)) as error:
            main(["referee", pairs, *more])
        assert message in capsys.readouterr().err + str(error.value)
        assert not (tmp_path / "o.jsonl").exists()


def train(home: Home, run: Path, prompts: str, *more: str) -> list[dict[str, float]]:
    """Train a policy that is its own referee, and return what was logged of each iteration."""
    arguments = home.arguments("pairwise_ppo", run)
    for name in (f"{MODEL}reward.init_args.path", f"{MODEL}critic.warmup"):
        place = arguments.index(name)
        del arguments[place : place + 2]
    overlay = ["--config", str(CONFIGS / "methods" / "urpo.yaml")]
    from prl.cli.app import run_stage

    given = [*arguments, "--data.init_args.train.path", prompts, "--data.init_args.batch_size", "2"]
    cli = run_stage([*given[:3], *overlay, *given[3:], *more, callback(Numbers)])
    return find_callback(cli.trainer, Numbers).training


def test_open_instructions_alone_are_left_out_until_the_warmup_is_over(home: Home, tmp_path: Path) -> None:
    prompts = [{"prompt": row["prompt"]} for row in rows(home.data("prompts.train"))]
    found = train(
        home, tmp_path / "run", write(tmp_path / "open.jsonl", prompts), f"{MODEL}reward.init_args.warmup", "4"
    )
    assert [numbers["reward/failed_frac"] for numbers in found] == [0.0] * 4
    assert [numbers["rewards/unreadable/mean"] for numbers in found] == [0.0] * 4
    with pytest.raises(
        ValueError, match="none of the 8 responses could be rewarded; the last failure: the referee was"
    ):
        train(home, tmp_path / "at_once", str(tmp_path / "open.jsonl"), f"{MODEL}reward.init_args.warmup", "0")


def test_a_wrong_row_ends_the_run_before_it_begins(home: Home, tmp_path: Path) -> None:
    prompts = [{"prompt": "copy x", "answer": "x"}, {"prompt": "copy y", "gold_scores": [1]}]
    with pytest.raises(DataError, match=r"row 2.*field 'gold_scores': found \[1\] \(no ranking\)"):
        train(home, tmp_path / "run", write(tmp_path / "wrong.jsonl", prompts))
