"""The run's `config.yaml`, between two lines that reveal truncation and edits.

A truncated config is still a valid config: the run would continue with defaults in place of the missing settings.
"""

import hashlib
from pathlib import Path

from prl.system.outputs import write_text

CONFIG = "config.yaml"
HEAD = "# Settings of a run of prl. The last line tells whether they are whole.\n"
SEAL = "# sha256 of the lines above, by which `prl resume` knows them: "


def write_config(run: Path, text: str) -> None:
    """Write the config of a run with its seal."""
    write_text(run / CONFIG, f"{HEAD}{text}{SEAL}{_sha256(HEAD + text)}\n")


def config_fault(run: Path) -> str | None:
    """Describe how the config differs from what the run wrote; None for an intact or an older, unsealed one."""
    text = (run / CONFIG).read_text(encoding="utf-8")
    lines, seal, found = text.rpartition(SEAL)
    if seal:
        return None if found.strip() == _sha256(lines) else "its lines are not those that the run wrote"
    return "its end is missing" if text.startswith(HEAD) or HEAD.startswith(text) else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
