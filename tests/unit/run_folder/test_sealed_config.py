"""A config that was cut or edited is told from what the run wrote; killed while it writes, a run keeps the old one."""

import os
from pathlib import Path

import pytest
import yaml

from prl.run_folder.sealed_config import CONFIG, config_fault, write_config

TEXT = "seed_everything: 0\ndata:\n  train: a.jsonl\n  batch_size: 8\n"


def test_a_config_that_is_cut_anywhere_or_edited_is_found(tmp_path: Path) -> None:
    write_config(tmp_path, TEXT)
    written = (tmp_path / CONFIG).read_text()
    assert yaml.safe_load(written) == yaml.safe_load(TEXT)
    assert config_fault(tmp_path) is None
    for end in range(len(written) - 1):
        (tmp_path / CONFIG).write_text(written[:end])
        assert config_fault(tmp_path) is not None, end
    (tmp_path / CONFIG).write_text(written.replace("8", "16"))
    assert "not those that the run wrote" in str(config_fault(tmp_path))


def test_a_config_of_a_version_without_seals_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(TEXT)
    assert config_fault(tmp_path) is None


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_killed_while_it_is_written_the_old_one_stays(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, TEXT)
    before = (tmp_path / CONFIG).read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, killed)
    with pytest.raises(KeyboardInterrupt):
        write_config(tmp_path, TEXT * 2)
    assert (tmp_path / CONFIG).read_bytes() == before
