"""Settings that the folder of rounds keeps: later starts have to have the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Settings = Mapping[str, Any]


def contents(configs: list[Path]) -> dict[str, Any]:
    """Read what config files say, by their names, as JSON values."""
    read = {str(path): yaml.safe_load(path.read_text(encoding="utf-8")) for path in configs}
    return dict(json.loads(json.dumps(read, default=str)))


def changes(before: Any, now: Any, name: str = "") -> list[str]:
    """Name the settings that differ, each by its dotted name.

    Args:
        before: kept settings, JSON values.
        now: those of this start.
        name: of the two.
    """
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return [] if before == now else [name]
    dotted = {each: f"{name}.{each}" if name else each for each in (*before, *now)}
    return [found for each, whole in dotted.items() for found in changes(before.get(each), now.get(each), whole)]
