"""Class paths of earlier versions, and what they are called now; the same table is in CHANGELOG.md.

A config that names an old one ends in an error with the new one. `prl convert RUN_DIR` writes the new names into the
config.yaml of a run, so that it goes on.
"""

import re
from pathlib import Path

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
_OLD = re.compile(r"(?<![\w.])(" + "|".join(re.escape(each) for each in RENAMED) + r")(?![\w.])")


class RenamedError(ValueError):
    """A class or function under a name of an earlier version."""


def check_names(args: list[str]) -> None:
    """Refuse old names on a command line and in the configs that it names.

    Raises:
        RenamedError: naming where it stands, and the new name.
    """
    for path in configs_on(args):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if found := _OLD.search(line):
                hint = f"; `prl convert {path.parent}` writes the new names" if path.name == CONFIG else ""
                raise RenamedError(f"{path}, line {number}: {_told(found.group())}{hint}")
    for each in args:
        if found := _OLD.search(each):
            raise RenamedError(_told(found.group()))


def _told(old: str) -> str:
    return f"{old} is now {RENAMED[old]}; write that"


def rename_in_run(run: Path) -> dict[str, str]:
    """Write new names into the config.yaml of a run; returns what was replaced, old name -> new name.

    Raises:
        RenamedError: when the config is not what the run wrote.
    """
    if (wrong := config_fault(run)) is not None:
        raise RenamedError(f"{run / CONFIG} has changed since the run wrote it: {wrong}. Put it back first")
    text = (run / CONFIG).read_text(encoding="utf-8")
    lines = text.rpartition(SEAL)[0] if SEAL in text else text
    found = dict.fromkeys(_OLD.findall(lines))
    if found:
        write_config(run, _OLD.sub(lambda old: RENAMED[old.group()], lines.removeprefix(HEAD)))
    return {old: RENAMED[old] for old in found}
