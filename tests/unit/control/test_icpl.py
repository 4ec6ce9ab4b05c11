"""Rewards that a language model writes: only in the restricted process, trained on, ranked, and shown to it again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.cli.commands.icpl import main
from prl.control import PointMass, normalized, returns
from prl.control.icpl import TASK, ICPLSettings, by_return, run_icpl, true_return
from prl.control.point_mass import GOAL
from prl.control.reward_code import FaultyCodeError, code_in, component_sums
from prl.control.reward_training import TrainingSettings, train_policy
from prl.system.restricted import RestrictedError, check_restricted
from tests.helpers.server import JSONHandler, listening

try:
    check_restricted()
    MISSING = ""
except RestrictedError as error:
    MISSING = str(error)
guarded = pytest.mark.skipif(bool(MISSING), reason=MISSING)
SMALL = TrainingSettings(steps=2, population=8, elite=2, episodes=2)
NEAR = (
    "def reward(state, action, next_state):\n    x, y = next_state[:2]\n"
    "    return -((x - 0.5) ** 2 + (y - 0.5) ** 2) ** 0.5"
)
FAR = NEAR.replace("return -(", "return (")
PARTS = (
    "import math\ndef reward(state, action, next_state):\n"
    "    return {'near': -math.dist(next_state[:2], [0.5, 0.5]), 'calm': -0.01 * abs(action[0])}"
)
SLOW = "def reward(state, action, next_state):\n    return -abs(next_state[2]) - abs(next_state[3])"


def fenced(code: str) -> str:
    return f"Here it is.\n```python\n{code}\n```\nIt is good."


def scripted(*answers: str) -> tuple[Callable[[str], str], list[str]]:
    """Answer one after the other, and again from the first; the prompts are kept."""
    asked: list[str] = []

    def propose(prompt: str) -> str:
        asked.append(prompt)
        return answers[(len(asked) - 1) % len(answers)]

    return propose, asked


# ---- code


@guarded
def test_components_are_summed_over_the_steps_of_each_trajectory() -> None:
    torch.manual_seed(0)
    states, actions = torch.rand(3, 6, 4), torch.rand(3, 5, 2)
    found = component_sums(PARTS, states, actions)
    near = -(states[:, 1:, :2] - torch.tensor(GOAL)).norm(dim=2).sum(1)
    assert [each["near"] for each in found] == pytest.approx(near.tolist(), abs=1e-5)
    assert [each["calm"] for each in found] == pytest.approx((-0.01 * actions[:, :, 0].sum(1)).tolist(), abs=1e-6)
    plain = component_sums(NEAR, states, actions)
    assert [each["reward"] for each in plain] == pytest.approx(near.tolist(), abs=1e-5)


@guarded
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return float('nan')", "expected a finite number"),
        ("return None", "TypeError"),
        ("return {}", "1 to 8 components"),
        ("return {'x' * 1500: 1.0}", "no name of a component"),
        ("return {'a\\nb': 1.0}", "'a.*nb' is no name"),
        ("return {'\\ud800': 1.0}", r"ud800' is no name"),
        ("return {str(state[0]): 1.0}", "the same 1 to 8 components"),
        ("return open('/etc/passwd').read()", "refused: PermissionError"),
        ("import os; os._exit(0)", "crash"),
        ('import os; os.write(3, b\'{"ending": "done", "value": [1, 2]}\'); os._exit(0)', "no numbers for 2"),
        ("return 10 ** 400", "OverflowError"),
    ],
)
def test_faulty_code_says_what_is_wrong(body: str, words: str) -> None:
    code = f"def reward(state, action, next_state):\n    {body}"
    with pytest.raises(FaultyCodeError, match=words):
        component_sums(code, torch.rand(2, 3, 4), torch.rand(2, 2, 2))


def test_code_is_the_first_block_of_an_answer() -> None:
    assert code_in(fenced(NEAR) + fenced(FAR)) == NEAR
    assert code_in(NEAR) == NEAR
    for text in ("I would rather not.", "```python\nx = 1\n```", "```\n# def reward(\n```"):
        with pytest.raises(FaultyCodeError, match="no function reward"):
            code_in(text)


# ---- training


def test_training_on_the_true_reward_learns_the_task_and_on_its_opposite_the_opposite() -> None:
    """In this process, for speed: what a restricted one would say of `NEAR` and `FAR`."""
    environment = PointMass()

    def sums(sign: float) -> Any:
        def of(states: torch.Tensor, actions: torch.Tensor) -> list[dict[str, float]]:
            near = -(states[:, 1:, :2] - torch.tensor(GOAL)).norm(dim=2).sum(1)
            return [{"near": sign * each} for each in near.tolist()]

        return of

    scores = []
    for sign in (1.0, -1.0):
        trained = train_policy(environment, sums(sign), TrainingSettings(), 0)
        scores.append(normalized(environment, returns(environment, trained.policy, 50, 7), 7))
        assert trained.curves["near"][-1] > trained.curves["near"][0]
        assert len(trained.curves["near"]) == TrainingSettings().steps
    assert scores[0] > 80
    assert scores[1] < 0


def test_equal_seeds_train_equally() -> None:
    environment = PointMass()

    def sums(states: torch.Tensor, actions: torch.Tensor) -> list[dict[str, float]]:
        return [{"left": -each} for each in states[:, -1, 0].tolist()]

    curves = [train_policy(environment, sums, SMALL, seed).curves for seed in (0, 0, 1)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


# ---- rounds


@guarded
def test_the_best_never_gets_worse_and_the_next_prompt_has_it_and_the_worst() -> None:
    environment = PointMass()
    propose, asked = scripted(*map(fenced, (FAR, SLOW, NEAR, FAR)))
    settings = ICPLSettings(rounds=3, candidates=2, training=SMALL)
    rounds = list(run_icpl(environment, propose, by_return(environment, 20), settings, 0))
    assert [each.number for each in rounds] == [1, 2, 3]
    best = [true_return(environment, each.best, 20) for each in rounds]
    assert best == sorted(best)
    assert asked[:2] == [TASK, TASK]
    for earlier, later in zip(rounds, rounds[1:], strict=False):
        assert asked[2 * later.number - 2 : 2 * later.number] == [later.prompt] * 2
        assert later.prompt.startswith(TASK)
        assert later.prompt.count("```python\n") == 2
        good, bad = (later.prompt.index(f"```python\n{each.code}\n```") for each in (earlier.best, earlier.worst))
        assert good < bad
        assert earlier.worst in earlier.candidates
        assert earlier.worst is not earlier.best
        assert "reward: " in later.prompt  # the curve of its one component
    changed = [now.best.code != then.best.code for then, now in zip(rounds, rounds[1:], strict=False)]
    assert ("What changed" in rounds[2].prompt) == changed[0]


@guarded
def test_faulty_answers_are_asked_for_again_with_their_fault() -> None:
    environment = PointMass()
    steals = "def reward(state, action, next_state):\n    return len(open('/etc/passwd').read())"
    propose, asked = scripted("no code", fenced(steals), fenced(NEAR))
    settings = ICPLSettings(rounds=1, candidates=2, training=SMALL)
    (found,) = run_icpl(environment, propose, lambda shown: [1, 0], settings, 0)
    assert [each.code for each in found.candidates] == [NEAR, NEAR]
    assert found.best is found.candidates[1]
    for each in found.candidates:
        assert [words in fault for words, fault in zip(("no function", "refused"), each.faults, strict=True)] == [
            True
        ] * 2
    assert asked[0] == TASK
    assert "An answer before this one was of no use: the answer has no function" in asked[1]
    assert "of no use: refused: PermissionError" in asked[2]
    assert len(asked) == 6


@guarded
def test_a_model_that_writes_no_reward_ends_the_run() -> None:
    propose, asked = scripted("no")
    settings = ICPLSettings(rounds=1, candidates=2, tries=3, training=SMALL)
    with pytest.raises(
        FaultyCodeError, match="3 answers in a row gave no reward; the last: the answer has no function"
    ):
        list(run_icpl(PointMass(), propose, lambda shown: [0, 1], settings, 0))
    assert len(asked) == 3


@guarded
def test_a_ranking_names_each_once() -> None:
    propose, _ = scripted(fenced(NEAR))
    settings = ICPLSettings(rounds=1, candidates=2, training=SMALL)
    with pytest.raises(ValueError, match=r"expected each of 0 to 1 once"):
        list(run_icpl(PointMass(), propose, lambda shown: [0, 0], settings, 0))


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"candidates": 1}, {"tries": 0}])
def test_settings_out_of_range(settings: Any) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
        ICPLSettings(**settings)
    with pytest.raises(ValueError, match="elite is 9"):
        TrainingSettings(elite=9, population=8)
    with pytest.raises(ValueError, match="training.steps is 0"):
        TrainingSettings(steps=0)


# ---- the command


class Writer(JSONHandler):
    def do_POST(self) -> None:
        self.server.seen.append(self.body())  # type: ignore[attr-defined]
        code = (NEAR, FAR)[len(self.server.seen) % 2]  # type: ignore[attr-defined]
        self.reply(200, {"choices": [{"message": {"content": fenced(code)}}]})


@guarded
def test_the_command_asks_a_server_and_writes_what_it_got(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "icpl"
    with listening(Writer) as server:
        sizes = ["--rounds", "2", "--candidates", "2", "--steps", "1"]
        main(["--base_url", f"{server.root}/v1", "--model", "m", "--output", str(out), *sizes])
        assert [each["messages"][0]["content"].count("```python") for each in server.seen] == [0, 0, 2, 2]
        assert {each["model"] for each in server.seen} == {"m"}
    rows = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 1, 2, 2]
    assert [row["code"] for row in rows] == [FAR, NEAR, FAR, NEAR]
    first = rows[:2]
    assert sorted(row["best"] for row in first) == sorted(row["worst"] for row in first) == [False, True]
    assert max(first, key=lambda row: row["return"])["best"]
    assert (out / "best.py").read_text().strip() in (NEAR, FAR)
    assert "round 2: the best has a return of" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds something already"):
        main(["--base_url", "http://127.0.0.1:9/v1", "--model", "m", "--output", str(out)])


def test_answers_on_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    from prl.cli.commands.icpl import _asked
    from prl.control.icpl import Candidate
    from prl.control.reward_training import linear_policy

    shown = [Candidate(1, NEAR, linear_policy(torch.zeros(2, 5)), {}) for _ in range(3)]
    monkeypatch.setattr("sys.stdin", io.StringIO("what\n1 1\n5 0\n2 0\n"))
    assert _asked(shown) == [2, 1, 0]
    assert capsys.readouterr().out.count("best and worst") == 4
    with pytest.raises(ValueError, match="input has ended"):
        _asked(shown)
