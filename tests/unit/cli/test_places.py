"""The configs that come with prl are found without a clone around it."""

from pathlib import Path

import pytest

from prl.cli.places import find_config, shipped_configs, with_shipped_configs

NAME = "configs/quickstart/supervised.yaml"


def test_a_shipped_config_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(shipped_configs() / "quickstart" / "supervised.yaml")
    assert Path(shipped).is_file()
    given = [
        "fit",
        "--config",
        NAME,
        "-c",
        NAME,
        f"--config={NAME}",
        "--run_dir",
        NAME,
        "--config",
        "configs/none.yaml",
    ]
    expected = ["fit", "--config", shipped, "-c", shipped, f"--config={shipped}", *given[6:]]
    assert with_shipped_configs(given) == expected
    assert find_config(Path("configs/quickstart")) == shipped_configs() / "quickstart"


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).parent.mkdir(parents=True)
    (tmp_path / NAME).write_text("run_dir: mine")
    assert with_shipped_configs(["fit", "--config", NAME]) == ["fit", "--config", NAME]
