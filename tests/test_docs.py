"""What the documentation says of the code: settings that it names, and methods that the API pages show."""

import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path
from typing import Any

import griffe
from lightning import Trainer

import datamodules
import lightning_modules
from datamodules.base import RecordDataModule
from lightning_modules.callbacks import RunCheckpoint
from tests.test_architecture import FILES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OWNERS: dict[str, list[type]] = {
    "model": [getattr(lightning_modules, name) for name in lightning_modules.__all__],
    "data": [*(getattr(datamodules, name) for name in datamodules.__all__), RecordDataModule],
    "trainer": [Trainer],
    "checkpoint": [RunCheckpoint],
}
SETTING = re.compile(r"`((?:model|data|trainer|checkpoint)(?:\.\w+)+)`")


def is_setting(owner: Any, path: list[str]) -> bool:
    """Return whether a class, or a dataclass among the alternatives of a type, takes the setting with this path."""
    if not path:
        return True
    if not inspect.isclass(owner):
        return any(is_setting(each, path) for each in typing.get_args(owner) if dataclasses.is_dataclass(each))
    hints = {} if owner is Trainer else typing.get_type_hints(owner.__init__)
    return path[0] in inspect.signature(owner).parameters and is_setting(hints.get(path[0]), path[1:])


def test_settings_for_users_of_trl_exist() -> None:
    named = SETTING.findall((DOCS / "coming_from_trl.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    paths = {name: name.split(".") for name in named}
    assert [name for name, (key, *path) in paths.items() if not any(is_setting(o, path) for o in OWNERS[key])] == []


def test_the_api_shows_every_method_under_the_name_of_a_config() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    extensions = griffe.load_extensions(str(DOCS / "site" / "methods.py"))
    shown = griffe.load("prl", search_paths=[str(ROOT)], extensions=extensions)
    packages = [name for name, path in FILES.items() if "methods_in(__name__" in path.read_text(encoding="utf-8")]
    assert len(packages) >= 5
    for name in packages:
        package = importlib.import_module(name)
        methods = {
            each
            for each, value in vars(package).items()
            if inspect.isclass(value) and value.__module__.startswith(name)
        }
        assert f"::: {name}\n" in pages, f"docs/api has no page of {name}"
        assert methods <= set(map(str, shown[name.removeprefix("prl.")].exports)), name


def test_the_overview_names_every_method_and_config() -> None:
    from prl.objectives import preference, reward
    from prl.pairs.rules import RULES

    page = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    methods = [*preference.METHODS, *reward.METHODS, *RULES]
    assert [name for name in methods if not re.search(rf"`[^`]*\b{name}\b[^`]*`", page)] == []
    rounds = sorted((ROOT / "configs" / "rounds").glob("*.yaml"))
    assert rounds
    assert [path.name for path in rounds if f"configs/rounds/{path.name}" not in page] == []
