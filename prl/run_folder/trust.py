"""Trust in run folders: the config.yaml of a run is data until the user trusts the folder.

A config names classes and functions to import, and may ask for pickles and for code of a hub repository. The user's own
config may do so. The config in a run folder may come from anyone, so it may name classes of prl, Lightning and torch
alone, unless `--trust_run_folder true` is on the command line.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

FLAG = "--trust_run_folder"
KNOWN = (
    "prl",
    "lightning_modules",
    "datamodules",
    "torch.optim",
    "torchmetrics",
    "lightning.fabric.plugins",
    *(f"lightning.pytorch.{part}" for part in ("accelerators", "callbacks", "loggers", "plugins", "profilers")),
    "lightning.pytorch.strategies",
)
"""Packages whose classes and functions any run folder may name."""
_RUN_FILES = ("checkpoints", "ledger.jsonl", "model")
"""Files of a run beside its config.yaml."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_CLASS_PATH = re.compile(r"""class_path["']?\s*:\s*["']?([\w.]+)""")
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
_guarded: ContextVar[tuple[Path, tuple[str, ...]] | None] = ContextVar("guarded", default=None)
"""Config of the run folder in use, and names that may be imported."""


class UntrustedRunError(ValueError):
    """Raised for a run folder whose config asks for more than it may."""


def take_flag(args: Iterable[str]) -> tuple[list[str], bool]:
    """Remove the flag from a command line; return the rest, and whether run folders are trusted.

    The flag is no setting, so no config can contain it.

    Raises:
        ValueError: for a value that is neither true nor false.
    """
    left, trusted = [], False
    rest = iter(args)
    for each in rest:
        name, equals, value = each.partition("=")
        if name != FLAG:
            left.append(each)
            continue
        value = value if equals else next(rest, "")
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{FLAG} is {value!r}; expected true or false")
        trusted = value.lower() == "true"
    return left, trusted


@contextmanager
def guarding(args: list[str]) -> Iterator[None]:
    """Restrict the configs of run folders on a command line to known code, inside the block.

    Raises:
        UntrustedRunError: naming everything at once that needs the user's trust.
    """
    configs = configs_on(args)
    of_runs = [path for path in configs if _is_of_a_run(path, args)]
    if not of_runs:
        yield
        return
    own = {name for path in configs if path not in of_runs for name in _CLASS_PATH.findall(_text(path)) if "." in name}
    with guarding_config(of_runs[0], _names(args) | own):
        for path in of_runs:
            check(read_settings(path))
        yield


@contextmanager
def guarding_config(path: Path, own: Iterable[str] = ()) -> Iterator[None]:
    """Let parsers import known classes and functions and those of the user's own command line, and no others.

    Raises:
        UntrustedRunError: when a parser met another name.
    """
    from jsonargparse import set_parsing_settings
    from jsonargparse._common import parsing_settings  # this setting has no other reset

    before, allowed = dict(parsing_settings), (*KNOWN, *own)
    token = _guarded.set((path, allowed))
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(allowed))
    try:
        yield
    except SystemExit as stop:
        if denied := _DENIED.search(str(stop.__context__)):
            raise UntrustedRunError(_told(path, [denied.group(1)])) from stop
        raise
    finally:
        _guarded.reset(token)
        parsing_settings.clear()
        parsing_settings.update(before)


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings that need the user's trust. Does nothing where no config of a run folder is in use.

    Raises:
        UntrustedRunError: naming everything at once.
    """
    if (guarded := _guarded.get()) is None:
        return
    path, allowed = guarded
    if found := list(_asked(settings, allowed)):
        raise UntrustedRunError(_told(path, found))


def read_settings(path: Path) -> dict[str, Any]:
    """Read a config.yaml.

    Raises:
        ValueError: when the file is no YAML, or no mapping.
    """
    try:
        found = yaml.safe_load(_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {reason}); copy it anew") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}; expected the settings of a run")
    return found


def _told(path: Path, found: list[str]) -> str:
    return (
        f"{path} is the config of a run folder and asks for what could be anybody's code or cost a secret: "
        f"{'; '.join(dict.fromkeys(found))}. If the run is yours or you trust it, add {FLAG} true"
    )


def _asked(value: Any, allowed: tuple[str, ...], where: str = "") -> Iterator[str]:
    """Describe what a nested value asks for."""
    if isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from _asked(each, allowed, f"{where}.{i}")
    if not isinstance(value, Mapping):
        return
    for key, each in value.items():
        here = f"{where}.{key}".lstrip(".")
        if key == "class_path" and isinstance(each, str) and "." in each and not _is_known(each, allowed):
            yield f"{each} ({where.lstrip('.')})"
        elif key in ("trust_remote_code", "weights_only") and each is (key == "trust_remote_code"):
            yield f"{here}: {str(each).lower()}"
        elif key == "api_key_env" and _costs_a_secret(each, value.get("base_url")):
            yield f"{here}: {each}, to be sent to {value.get('base_url')}"
        else:
            yield from _asked(each, allowed, here)


def _costs_a_secret(variable: Any, base_url: Any) -> bool:
    from prl.system.http import is_loopback  # imports torch, and most configs name no server

    is_set = isinstance(variable, str) and bool(os.environ.get(variable))
    return is_set and not is_loopback(str(base_url))


def _is_known(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


def configs_on(args: list[str]) -> list[Path]:
    """List the config files on a command line, in any form of the option."""
    found = []
    for i, each in enumerate(args):
        name, equals, value = each.partition("=")
        if name == "-c" or (name.startswith("--con") and "--config".startswith(name)):
            found.append(value if equals else args[i + 1] if i + 1 < len(args) else "")
    return [Path(each) for each in found if Path(each).is_file()]


def _is_of_a_run(path: Path, args: list[str]) -> bool:
    """Return whether a run wrote a config; the user's own config may also be called config.yaml."""
    starts_anew = "fit" in args and not any(each.partition("=")[0] == "--ckpt_path" for each in args)
    beside = any((path.parent / name).exists() for name in _RUN_FILES)
    return path.name == "config.yaml" and (beside or not starts_anew)


def _names(args: list[str]) -> set[str]:
    """List the classes and functions that a command line names."""
    values = [each.partition("=")[2] if each.startswith("-") else each for each in args]
    plain = {value for value in values if _DOTTED.fullmatch(value)}
    return {name for name in plain.union(*map(_CLASS_PATH.findall, values)) if _DOTTED.fullmatch(name)}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
