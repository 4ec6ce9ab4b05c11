"""A planted preference that goes round in a circle: rock beats scissors, scissors beat paper, paper beats rock.

A general preference model learns it from pairs, through the command line, and a Bradley-Terry model cannot.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from prl.cli.app import run_stage
from prl.cli.entry import main
from prl.judge import GeneralPreferenceJudge, Judge
from prl.judge.passport import read_passport
from tests.integration.runs import CONFIGS, Home, Numbers, callback, differences, find_callback, last_checkpoint

MODEL = "--model.init_args."
OVERLAY = ("--config", str(CONFIGS / "methods" / "general_preference.yaml"))
PROMPT_HEAD = f"{MODEL}objective.init_args.prompt_head"
BEATS = {"r": "s", "s": "p", "p": "r"}
"""Each throw, and the one that it beats."""


def text(draw: random.Random, throw: str) -> str:
    """Write a throw between random letters that say nothing."""
    letters = [draw.choice("abcde") for _ in range(draw.randint(3, 6))]
    letters.insert(draw.randint(0, len(letters)), throw)
    return "".join(letters)


def write_throws(path: Path, draw: random.Random, number: int, known: set[str]) -> None:
    """Write pairs of unequal throws, the better one chosen, in texts that are new."""
    rows: list[dict[str, str]] = []
    while len(rows) < number:
        throw = draw.choice(sorted(BEATS))
        chosen, rejected = text(draw, throw), text(draw, BEATS[throw])
        if not {chosen, rejected} & known:
            rows.append({"prompt": "throw", "chosen": chosen, "rejected": rejected})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known |= {row[side] for row in rows for side in ("chosen", "rejected")}


@pytest.fixture(scope="module")
def throws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root, draw, known = tmp_path_factory.mktemp("throws"), random.Random(0), set[str]()
    files = {split: root / f"{split}.jsonl" for split in ("train", "validation")}
    write_throws(files["train"], draw, 1500, known)
    write_throws(files["validation"], draw, 300, known)
    return {split: str(path) for split, path in files.items()}


def trained(home: Home, throws: dict[str, str], run: Path, *more: str) -> dict[str, float]:
    """Train for 200 steps, and return what the last validation measured."""
    arguments = home.arguments("bradley_terry", run)
    for split, path in throws.items():
        arguments += [f"--data.init_args.{split}.path", path]
    arguments += ["--data.init_args.batch_size", "32", "--data.init_args.validation_batch_size", "100"]
    arguments += ["--trainer.max_steps", "200", "--trainer.val_check_interval", "200"]
    arguments += ["--checkpoint.every_n_batches", "200", f"{MODEL}optimization.learning_rate", "3e-3"]
    cli = run_stage([*arguments[:3], *more, *arguments[3:], callback(Numbers)])
    return find_callback(cli.trainer, Numbers).validation[-1]


@pytest.fixture(scope="module")
def circle(home: Home, throws: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a general preference model, and return its run folder."""
    run = tmp_path_factory.mktemp("circle") / "gpm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["prl"])
        found = trained(home, throws, run, *OVERLAY)
    assert found["val/accuracy"] > 0.95
    assert found["val/flip_rate"] == 0
    return run


def test_a_circle_is_learnt_and_the_folder_says_it(circle: Path, throws: dict[str, str], tmp_path: Path) -> None:
    folder = circle / "model"
    passport = read_passport(folder)
    assert passport is not None
    assert passport["judge"]["preference"]["dim"] == 4
    assert passport["report"]["accuracy"]["mean"] > 0.95
    main(["judge", "--judge", str(folder), "--pairs", throws["validation"], "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())["report"]
    assert report["accuracy"]["mean"] > 0.95
    assert report["num_pairs"] == 300
    verdict = Judge.from_pretrained(folder).compare(
        ["throw"] * 3, ["abrcd", "dsabe", "pbcad"], ["esabc", "abpde", "drabc"]
    )
    assert (verdict.win_prob > 0.9).all()


@pytest.mark.slow
def test_prompts_may_weigh_the_blocks_of_a_circle(home: Home, throws: dict[str, str], tmp_path: Path) -> None:
    assert trained(home, throws, tmp_path / "gpm", *OVERLAY, PROMPT_HEAD, "true")["val/accuracy"] > 0.95


@pytest.mark.slow
def test_a_scalar_reward_stays_at_chance(home: Home, throws: dict[str, str], tmp_path: Path) -> None:
    # The standard error of 300 pairs is 0.03, and these are five of them.
    assert trained(home, throws, tmp_path / "scalar")["val/accuracy"] == pytest.approx(0.5, abs=0.15)


def test_a_prompt_head_goes_on_exactly_after_it_was_cut_off(home: Home, tmp_path: Path) -> None:
    def run(name: str, *more: str) -> dict[str, Any]:
        arguments = home.arguments("bradley_terry", tmp_path / name)
        run_stage([*arguments[:3], *OVERLAY, PROMPT_HEAD, "true", *arguments[3:], *more])
        return last_checkpoint(tmp_path / name)

    whole = run("whole")
    cut = run("cut", "--ckpt_path", str(tmp_path / "whole" / "checkpoints" / "batch-000002.ckpt"))
    for part in ("state_dict", "optimizer_states", "run_state"):
        assert differences(whole[part], cut[part]) == []


def test_it_judges_pairs_and_rewards_a_policy(circle: Path, home: Home, tmp_path: Path) -> None:
    folder, output = str(circle / "model"), tmp_path / "pairs.jsonl"
    prompts = ("--prompts", str(home.data("prompts.train")), "--limit", "6", "--max_new_tokens", "5")
    main(
        [
            *("pairs", "--policy", str(home.policy), "--judge", folder, "--output", str(output), *prompts),
            *("--samples", "4", "--batch_size", "8", "--keep_unfinished", "--any_order"),
        ]
    )
    made = [json.loads(line) for line in output.read_text().splitlines()]
    assert made
    judge: Any = GeneralPreferenceJudge(folder)
    judge.load()
    for row in made:
        (margin,) = judge.margins([(tuple(_messages(row["prompt"])), row["chosen"], row["rejected"])])
        assert float(margin.sigmoid()) == pytest.approx(row["win_prob"], abs=1e-5)
    reward = {"class_path": "prl.judge.GeneralPreferenceJudge", "init_args": {"path": folder}}
    cli = home.run(
        *("pairwise_ppo", tmp_path / "ppo", callback(Numbers), f"{MODEL}reward", json.dumps(reward)),
        *(f"{MODEL}judge_gate.mode", "warn", f"{MODEL}iterations", "2"),
    )
    numbers = find_callback(cli.trainer, Numbers)
    for each in numbers.training:
        assert each["reward/failed_frac"] == 0
        assert 0 < each["reward/win_prob"] < 1
        assert each["reward/flip_rate"] == 0
    assert any(name.startswith("model.reward/") for name in cli.model.inputs())


def _messages(prompt: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
