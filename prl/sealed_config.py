"""The run's `config.yaml`, with a last line by which a file that was cut or edited is told from what the run wrote.

A config that is cut is still a config: it would go on with defaults in place of what is missing.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from prl.ledger import LEDGER, read_ledger
from prl.outputs import write_text

CONFIG = "config.yaml"
_SEAL = "# sha256 of the lines above, by which `prl resume` knows them: "


def write_config(run: Path, text: str) -> None:
    """Write the config of a run with its seal."""
    write_text(run / CONFIG, f"{text}{_SEAL}{_sha256(text)}\n")


def config_fault(run: Path) -> str | None:
    """How the config is not what the run wrote, in words; None where it is, or where nothing tells.

    One without a seal was cut, or is of a version that wrote none; then the run ledger has a hash of it.
    """
    text = (run / CONFIG).read_text(encoding="utf-8")
    lines, seal, found = text.rpartition(_SEAL)
    if seal:
        return None if found.strip() == _sha256(lines) else "its lines are not those that the run wrote"
    written = None
    with suppress(ValueError):  # without a ledger, or with a damaged one, nothing tells
        written = read_ledger(run / LEDGER)[1].get(CONFIG)
    if written in (None, _sha256(text)[:16]):
        return None
    return "it is cut, or its last line was taken away"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
