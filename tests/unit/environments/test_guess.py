"""The game of guessing a number: what it says, what it pays, and the rows that it is played on."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prl.environments import GuessTheNumber, Reply
from prl.environments.guess import games
from prl.environments.rows import main
from prl.system.outputs import OutputError


def begin(prompt: str, row: Any, **settings: Any) -> Any:
    return GuessTheNumber(**settings).begin(({"role": "user", "content": prompt},), row)


def test_a_game() -> None:
    game = begin("1..7", {"secret": 5}, nonsense=0.25)
    assert game.reply("4") == Reply("5..7", 0.0, False)
    assert game.reply("four") == game.reply("4") == game.reply("") == game.reply("5.") == Reply("5..7", -0.25, False)
    assert game.reply(" 6\n") == Reply("5..5", 0.0, False)
    assert not game.success
    assert game.reply("5") == Reply("5..4", 1.0, True)
    assert game.success


@pytest.mark.parametrize("secret", range(2, 9))
def test_who_halves_the_range_finds_the_number_in_three_turns(secret: int) -> None:
    game, left, rewards = begin("2..8", {"secret": secret}), "2..8", []
    while not game.success:
        low, high = map(int, left.split(".."))
        left, reward, is_over = game.reply(str((low + high) // 2))
        rewards.append(reward)
        assert is_over == game.success
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert len(rewards) <= 3


def test_rows_can_be_played_and_depend_on_the_seed_alone() -> None:
    rows = list(games(Random("0"), 300))
    assert rows == list(games(Random("0"), 300)) != list(games(Random("1"), 300))
    assert len({str(row) for row in rows}) == 21  # three ranges of seven numbers
    for row in rows:
        assert begin(row["prompt"], row).reply(str(row["secret"])).is_over


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "--rows", "25"])
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name: len(text.splitlines()) for name, text in written.items()} == {
        "train.jsonl": 25,
        "validation.jsonl": 3,
    }
    assert json.loads(written["train.jsonl"].splitlines()[0]).keys() == {"prompt", "secret"}
    main(["--out", str(tmp_path), "--rows", "25"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == written
    (tmp_path / "train.jsonl").write_text("a file of someone else\n")
    with pytest.raises(OutputError):
        main(["--out", str(tmp_path)])


def test_bad_rows_are_named() -> None:
    with pytest.raises(ValueError, match=r"prompts such as '1..7', and one of the data is 'guess'"):
        begin("guess", {"secret": 1})
    for row in ({}, {"secret": "3"}, {"secret": 9}, {"secret": True}):
        with pytest.raises(ValueError, match="reads the column 'secret', a whole number in the range .*'1..7'"):
            begin("1..7", row)
    with pytest.raises(ValueError, match="GuessTheNumber.nonsense is -1; expected 0 or more"):
        GuessTheNumber(-1)
