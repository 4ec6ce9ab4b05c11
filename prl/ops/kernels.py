"""Choice of compiled kernels, with reasons: PRL_KERNELS=auto|cuda|cpp|torch, read once at import."""

import json
import os
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

CHOICES = ("auto", "cuda", "cpp", "torch")
FOLDER = Path(__file__).parent
SOURCES = FOLDER.parent / "csrc"
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""One of these exists where a GPU can be used (the second under WSL); the check does not initialise CUDA."""
OLDEST_TORCH = (2, 10)
"""First version whose stable ABI has everything that the kernels call."""


@dataclass(frozen=True)
class Kernel:
    """One implementation of the operators."""

    name: str
    active: bool
    reason: str


_STATUS: dict[str, Kernel] = {}


def status() -> dict[str, Kernel]:
    """List the implementations of this process by name (torch, cpp, cuda), each active or not, with the reason."""
    return dict(_STATUS)


def active_for(device_type: str) -> str:
    """Return the name of the implementation that runs on tensors of a device type."""
    name = {"cpu": "cpp", "cuda": "cuda"}.get(device_type, "torch")
    return name if _STATUS[name].active else "torch"


def source_hash(folder: Path) -> str:
    """Hash the kernels' sources: a library built from other sources is not used."""
    digest = sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".h", ".cuh", ".cu", ".cpp"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def load() -> None:
    """Load the kernels that PRL_KERNELS selects.

    Raises:
        ValueError: for an unknown value of PRL_KERNELS.
        RuntimeError: when the named kernel cannot be used here, with the reason.
    """
    choice = os.environ.get("PRL_KERNELS", "auto")
    if choice not in CHOICES:
        raise ValueError(f"PRL_KERNELS={choice!r} is unknown; known: {', '.join(CHOICES)}")
    built = _build_record()
    wanted = {"auto": ("cpp", "cuda"), "cuda": ("cpp", "cuda"), "cpp": ("cpp",), "torch": ()}[choice]
    for name in ("cpp", "cuda"):
        why_not = _obstacle(name, built) if name in wanted else f"switched off by PRL_KERNELS={choice}"
        if why_not is None and choice == name == "cuda" and not _has_gpu():
            why_not = "there is no GPU here"
        if why_not is None:
            why_not = _open(name)
        if why_not is not None and choice == name:
            raise RuntimeError(f"PRL_KERNELS={choice}, but this kernel cannot be used: {why_not}")
        _STATUS[name] = Kernel(name, why_not is None, built["built"][name] if why_not is None else why_not)
    _STATUS["torch"] = Kernel("torch", True, "plain torch: runs wherever no compiled kernel is active")
    needed = ["cpp", "cuda"] if torch.version.cuda is not None and _has_gpu() else ["cpp"]
    missing = [f"{name}: {_STATUS[name].reason}" for name in needed if not _STATUS[name].active]
    if choice == "auto" and missing and os.environ.get("LOCAL_RANK", "0") in ("", "0"):
        warnings.warn(
            f"advantages run in plain torch, which is right but slow ({'; '.join(missing)}). `prl env` tells more; "
            "PRL_KERNELS=torch chooses plain torch without this warning.",
            stacklevel=2,
        )


def _build_record() -> dict[str, Any]:
    """Read the record that the installation (setup.py) wrote about each kernel."""
    path = FOLDER / "built.json"
    if not path.is_file():
        return {"sources": None, "built": {}, "not_built": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def _obstacle(name: str, built: dict[str, Any]) -> str | None:
    """Explain why a kernel cannot be loaded; None when it can."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        return f"torch {torch.__version__} is older than 2.10, the first with the stable ABI the kernels use"
    if name == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if name not in built["built"] or not _library(name).is_file():
        return built["not_built"].get(name, "it was not built when prl was installed (docs/kernels.md)")
    if SOURCES.is_dir() and built["sources"] != source_hash(SOURCES):
        return "it was built from other sources than those in prl/csrc: install again (`pip install --editable .`)"
    return None


def _open(name: str) -> str | None:
    """Load a library, which registers its kernels; the reason if that fails."""
    try:
        torch.ops.load_library(str(_library(name)))
    except OSError as error:
        return f"{_library(name).name} does not load: {error.__cause__ or error}"  # torch puts its own message in front
    return None


def _has_gpu() -> bool:
    return any(path.exists() for path in DRIVERS)


def _library(name: str) -> Path:
    return FOLDER / f"_{name}.so"
