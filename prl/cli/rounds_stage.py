"""Check of what a round trains with what, before anything is sampled."""

from pathlib import Path
from typing import Any

import yaml

from prl.cli.places import find_config
from prl.pairs.base import CandidateRule, DemonstrationRule
from prl.rounds.settings import Fit, Rounds


def check_stage(rule: CandidateRule, fit: Fit, rounds: Rounds) -> None:
    """Refuse a training that does not learn from the rows that the rule makes.

    Args:
        rule: makes pairs or demonstrations.
        fit: names the configs of the training; a class of the user's own in them is not looked at.
        rounds: names the reference.

    Raises:
        ValueError: naming the setting and the fix.
    """
    import lightning_modules

    name = _stage_of(fit)
    stage = getattr(lightning_modules, name.rpartition(".")[2], None) if name is not None else None
    wanted, made = getattr(stage, "record_type", None), type(rule).__name__
    if wanted is not None and wanted is not rule.record_type:
        fix = "SupervisedModule" if isinstance(rule, DemonstrationRule) else "PreferenceModule"
        raise ValueError(
            f"fit.configs train {name}, which learns from {wanted.__name__} rows, but pairs.rule {made} makes "
            f"{rule.rows}; name a config of {fix}, or another rule"
        )
    if isinstance(rule, DemonstrationRule) and rounds.reference == "start":
        raise ValueError(f"rounds.reference is start, but {made} makes demonstrations, which train without a reference")


def _stage_of(fit: Fit) -> str | None:
    """Find the class of the training module; None where no file here names one."""
    name: Any = None
    for path in map(find_config, map(Path, fit.configs)):
        if path.is_file():
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
            model = config.get("model") if isinstance(config, dict) else None
            name = model.get("class_path", name) if isinstance(model, dict) else name
    return name if isinstance(name, str) else None
