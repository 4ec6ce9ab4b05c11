"""Names of earlier versions: each is told with its new name, and a run of then goes on after `prl convert`."""

import importlib
from pathlib import Path

import pytest

from prl.cli.commands import convert
from prl.run_folder.renamed import RENAMED, RenamedError, check_names
from prl.run_folder.sealed_config import CONFIG, config_fault, write_config

CHANGELOG = Path(__file__).parents[3] / "CHANGELOG.md"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_gone_and_the_new_one_is_there(old: str, new: str) -> None:
    module, _, name = new.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    module, _, name = old.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        return
    assert not hasattr(found, name)


def test_the_changelog_has_the_table() -> None:
    text = CHANGELOG.read_text(encoding="utf-8")
    assert [f"| `{old}` | `{new}` |" for old, new in RENAMED.items() if f"| `{old}` | `{new}` |" not in text] == []


def test_an_old_name_in_a_config_is_told_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model:\n  judge:\n    class_path: prl.judge.RuleReward\n")
    with pytest.raises(RenamedError, match=r"mine.yaml, line 3: prl.judge.RuleReward is now prl.rewards.RuleReward;"):
        check_names(["fit", "--config", str(config)])


def test_an_old_name_on_the_command_line_is_told() -> None:
    with pytest.raises(RenamedError, match="exact_match is now prl.rewards.rule.exact_match; write that"):
        check_names(["fit", '--judge={"init_args": {"rule": "prl.judge.rule.exact_match"}}'])


LOOKS_ALIKE = ["my.prl.judge.RuleReward", "prl.judge.RuleRewards", "prl.judge.rule.exact_match.mine"]


@pytest.mark.parametrize("name", LOOKS_ALIKE)
def test_a_name_that_only_looks_like_an_old_one_is_not(name: str) -> None:
    check_names([name])


def test_the_config_of_a_run_is_converted_and_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, "a: prl.judge.ScalarReward\nb: prl.judge.GenerativeJudge\n")
    with pytest.raises(RenamedError, match=f"`prl convert {tmp_path}` writes the new names"):
        check_names(["fit", "--config", str(tmp_path / CONFIG)])
    convert.main([str(tmp_path)])
    assert "prl.judge.ScalarReward is now prl.rewards.ScalarReward" in capsys.readouterr().out
    assert "a: prl.rewards.ScalarReward\nb: prl.judge.GenerativeJudge\n" in (tmp_path / CONFIG).read_text()
    assert config_fault(tmp_path) is None
    check_names(["fit", "--config", str(tmp_path / CONFIG)])
    convert.main([str(tmp_path)])
    assert "has no old names" in capsys.readouterr().out


def test_a_config_that_was_cut_is_not_converted(tmp_path: Path) -> None:
    write_config(tmp_path, "a: prl.judge.ScalarReward\n")
    text = (tmp_path / CONFIG).read_text()
    (tmp_path / CONFIG).write_text(text[:-20])
    with pytest.raises(RenamedError, match="has changed since the run wrote it"):
        convert.main([str(tmp_path)])
