"""What is imported before the arguments are known to be right, each in a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prl import __version__
from prl.cli.commands import COMMANDS
from prl.cli.help import OPTIONS, VERBS, summary

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "numpy", "transformers", "lightning", "matplotlib", "datasets", "peft", "deepspeed"}
ANSWERS = """
import contextlib, io, json, sys
from prl.__main__ import main

found = {}
for line in json.loads(sys.argv[1]):
    before, told = set(sys.modules), io.StringIO()
    sys.argv, code = ["prl", *line], 0
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as ending:
            code = ending.code
            if isinstance(code, str):  # as the interpreter itself does
                print(code)
                code = 1
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    found[" ".join(line)] = {"code": code or 0, "told": told.getvalue(), "loaded": sorted(loaded)}
print(json.dumps(found))
"""
"""Runs command lines one after the other: exit code, what was printed, and the packages that came with each."""
WRONG = {
    "": 2,
    "nonsense": 2,
    "data": 2,
    "data pairs.jsonl --show-tokens 1": 2,
    "data pairs.jsonl --limit 0": 2,
    "judge --judge j": 2,
    "judge --judge j --prompts p --responses r --anchors a --max_pairs 3": 2,
    "anchors --policy p --prompts q --output a.jsonl": 2,
    "anchors --policy p --prompts q --output a.jsonl --samples 0": 2,
    "data a.jsonl --tokenizer t --show-tokens -2": 2,
    "anchors --policy p --prompts q --samples 1 --output a.txt": 2,
    "resume nowhere": 1,
    "arena --judge j --prompts p --budget 5 --out o": 2,
    "arena --judge j --prompts p --players a=b c=d --budget 0 --out o": 2,
    "arena --judge j --prompts p --players a b=c --budget 5 --out o": 2,
    "arena --judge j --prompts p --players a=b c=d --budget 5 --out prl": 1,
    "frontier": 2,
    "frontier nowhere": 1,
    "frontier nowhere --measure loss": 2,
    "export --checkpoint nowhere.ckpt --output out": 1,
    "export --checkpoint prl --output out": 1,
    "estimate --processes many": 2,
    "convert nowhere": 2,
    "convert m prl": 1,
    "quickstart --only nothing": 2,
    "quickstart --configs nowhere": 1,
    "env --yaml": 2,
}
"""Command lines that are refused, with their exit codes."""


def fresh(code: str, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def answers() -> dict[str, dict]:
    lines = [["--version"], ["--help"], ["-h"], *([name, "--help"] for name in COMMANDS), *map(str.split, WRONG)]
    return json.loads(fresh(ANSWERS, json.dumps(lines)))


def test_the_version_and_the_help_need_nothing_heavy(answers) -> None:
    for line in ("--version", "--help", "-h"):
        assert answers[line]["code"] == 0
        assert not HEAVY & set(answers[line]["loaded"])
    assert answers["--version"]["told"] == f"prl {__version__}\n"
    told = answers["--help"]["told"]
    assert answers["-h"]["told"] == answers[""]["told"] == told
    for name in (*VERBS, *COMMANDS, *OPTIONS):
        assert f"\n  {name}  " in told
    assert "prl fit --help" in told


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_needs_nothing_heavy(name: str, answers) -> None:
    answer = answers[f"{name} --help"]
    assert answer["code"] == 0
    assert f"usage: prl {name} " in answer["told"]
    assert not HEAVY & set(answer["loaded"])
    assert summary(name), f"the first line of prl/cli/commands/{name}.py is not `prl {name} ...`: what it does"


def test_the_help_of_resume_lists_what_a_refusal_asks_for(answers) -> None:
    assert {"--accept_changes", "--trust_run_folder"} <= set(answers["resume --help"]["told"].split())


@pytest.mark.parametrize("line", WRONG)
def test_what_is_refused_needs_nothing_heavy(line: str, answers) -> None:
    told = answers[line]["told"].splitlines()
    assert (answers[line]["code"], "Traceback" in answers[line]["told"]) == (WRONG[line], False)
    assert told
    assert not HEAVY & set(answers[line]["loaded"])


def test_a_run_begins_without_what_only_some_runs_need() -> None:
    loaded = set(fresh("import sys, prl.cli.app; print(*{name.partition('.')[0] for name in sys.modules})").split())
    assert "lightning" in loaded
    assert not loaded & {"deepspeed", "datasets", "peft"}


def test_a_first_quickstart_looks_for_earlier_files_without_torch() -> None:
    code = "import sys; from pathlib import Path; from prl.cli.commands.quickstart import _remove_earlier as remove\n"
    loaded = fresh(f"{code}remove(Path('nowhere')); print(*sys.modules)").split()
    assert "prl.cli.commands.quickstart" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(given, expected, monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    code = "import os, sys; from prl.__main__ import main; sys.argv = ['prl', '--version']; main()\n"
    told = fresh(f"{code}print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)").split()
    assert told[-2:] == [expected, "False"]
