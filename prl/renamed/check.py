"""Names of earlier versions, of classes here and of settings beside it, and what they are called now.

A config that names an old one ends in an error with the new one. `prl convert RUN_DIR` writes the new names into the
config.yaml of a run, so that it goes on. The tables are in CHANGELOG.md too.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from prl.renamed.settings import RENAMED_SETTINGS, STAGES, convert_settings, old_settings
from prl.run_folder.sealed_config import CONFIG, HEAD, SEAL, config_fault, write_config
from prl.run_folder.trust import configs_on

RENAMED = {
    "prl.anchor_bank.AnchorBank": "prl.anchors.AnchorBank",
    "prl.judge.RewardSource": "prl.rewards.RewardSource",
    "prl.judge.RuleReward": "prl.rewards.RuleReward",
    "prl.judge.ScalarReward": "prl.rewards.ScalarReward",
    "prl.judge.WeightedReward": "prl.rewards.WeightedReward",
    "prl.judge.rule.RuleReward": "prl.rewards.RuleReward",
    "prl.judge.rule.exact_match": "prl.rewards.rule.exact_match",
    "prl.judge.scalar.ScalarReward": "prl.rewards.ScalarReward",
    "prl.judge.source.RewardSource": "prl.rewards.RewardSource",
    "prl.judge.weighted.WeightedReward": "prl.rewards.WeightedReward",
    "prl.rollout_server.RolloutServer": "prl.rollouts.RolloutServer",
}
RENAMED_KEYS = {"shared_trunk": "share_base_model"}
"""Settings of judges, wherever a judge is configured."""
_OLD_KEY = re.compile(r"(?<!\w)(" + "|".join(RENAMED_KEYS) + r")(?=[\"']?\s*[:=])")
_OLD = re.compile(r"(?<![\w.])(" + "|".join(re.escape(each) for each in RENAMED) + r")(?![\w.])")


class RenamedError(ValueError):
    """A class, a function or a setting under a name of an earlier version."""


def check_names(args: list[str]) -> None:
    """Refuse old names on a command line and in the configs that it names.

    Raises:
        RenamedError: naming where it stands, and the new name.
    """
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in configs_on(args)}
    configs = {path: _loaded(text) for path, text in texts.items()}
    is_ours = all(_stage(config) in (None, *STAGES) for config in configs.values())  # others have settings of their own
    for path, text in texts.items():
        hint = f"; `prl convert {path.parent}` writes the new names" if path.name == CONFIG else ""
        for number, line in enumerate(text.splitlines(), start=1):
            if found := _OLD.search(line) or _OLD_KEY.search(line.partition(" #")[0]):
                raise RenamedError(f"{path}, line {number}: {_told(found.group())}{hint}")
        for setting in old_settings(_init_args(configs[path])) if is_ours else ():
            raise RenamedError(f"{path}: {_setting_told(setting)}{hint}")
    for each in args:
        if found := _OLD.search(each) or _OLD_KEY.search(f"{each}=" if each.startswith("--") else each):
            raise RenamedError(_told(found.group()))
    if any(stage in each for each in (*texts.values(), *args) for stage in STAGES):
        _check_options(args)


def _check_options(args: list[str]) -> None:
    """Refuse options `--model.SETTING` and `--model.init_args.SETTING` of earlier versions."""
    for option, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = option.partition("=")
        parts = name.removeprefix("--model.").removeprefix("init_args.").split(".")
        if not name.startswith("--model."):
            continue
        inner: Any = value if equals else following
        for part in reversed(parts[1:]):
            inner = {part: inner}
        critic_is_kind = parts == ["critic"] and inner in ("own", "shared", "adapter")
        if parts[0] != "critic" or critic_is_kind:
            for setting in old_settings({parts[0]: inner}):
                raise RenamedError(f"{name}: {_setting_told(setting)}")


def _told(old: str) -> str:
    return f"{old} is now {(RENAMED | RENAMED_KEYS)[old]}; write that"


def _setting_told(old: str) -> str:
    return f"model.init_args.{old} is now {RENAMED_SETTINGS[old]}; write that"


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return None  # whoever reads the config tells what is wrong with it


def _stage(config: Any) -> str | None:
    """Find the class of the stage that a config, or a part of one, names; None where it names none."""
    model = config.get("model") if isinstance(config, Mapping) else None
    found = model.get("class_path") if isinstance(model, Mapping) else None
    return str(found).rpartition(".")[2] if found else None


def _init_args(config: Any) -> dict[str, Any]:
    """Find the settings of the stage in a config, or in a part of one that names no class."""
    model = config.get("model") if isinstance(config, Mapping) else None
    found = model.get("init_args") if isinstance(model, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def rename_in_run(run: Path) -> dict[str, str]:
    """Write new names into the config.yaml of a run; returns what was replaced, old name -> new name.

    Raises:
        RenamedError: when the config is not what the run wrote.
    """
    if (wrong := config_fault(run)) is not None:
        raise RenamedError(f"{run / CONFIG} has changed since the run wrote it: {wrong}. Put it back first")
    text = (run / CONFIG).read_text(encoding="utf-8")
    lines = (text.rpartition(SEAL)[0] if SEAL in text else text).removeprefix(HEAD)
    found = {old: RENAMED[old] for old in dict.fromkeys(_OLD.findall(lines))}
    found |= {old: RENAMED_KEYS[old] for old in dict.fromkeys(_OLD_KEY.findall(lines))}
    lines = _OLD_KEY.sub(lambda old: RENAMED_KEYS[old.group()], _OLD.sub(lambda old: RENAMED[old.group()], lines))
    config = _loaded(lines)
    stage, init_args = _stage(config), _init_args(config)
    if stage in STAGES and (settings := dict.fromkeys(old_settings(init_args))):
        found |= {f"model.init_args.{each}": RENAMED_SETTINGS[each] for each in settings}
        config["model"]["init_args"] = convert_settings(stage, init_args)
        lines = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if found:
        write_config(run, lines)
    return found
