"""Seconds and peak memory of the phases of an iteration, of the GPU or, without one, of the process."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

_GIB = 2**30


class PhaseTimer:
    """Sums the seconds and keeps the highest memory peak of each phase until `clear`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak_gib: dict[str, float] = {}
        self._open: list[str] = []
        self._inside = 0.0

    def clear(self) -> None:
        """Start a new iteration."""
        self.seconds.clear()
        self.peak_gib.clear()
        self._open.clear()

    @contextmanager
    def measure(self, name: str, device: torch.device) -> Iterator[None]:
        """Measure a phase, without the phases inside it."""
        before, self._inside = self._inside, 0.0
        if self._open:
            self._keep_peak(device)
        known, start = _reset_peak(device), perf_counter()
        self._open.append(name if known else "")
        yield
        passed = perf_counter() - start
        self.seconds[name] += passed - self._inside
        self._inside = before + passed
        self._keep_peak(device)
        self._open.pop()
        _reset_peak(device)

    def _keep_peak(self, device: torch.device) -> None:
        """Keep the memory peak of the innermost phase, where the platform can tell."""
        if name := self._open[-1]:
            self.peak_gib[name] = max(self.peak_gib.get(name, 0.0), _peak_gib(device))


def _reset_peak(device: torch.device) -> bool:
    """Reset the memory peak; return whether the platform can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the high-water mark of resident memory
    except OSError:
        return False
    return True


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / _GIB for line in lines if line.startswith("VmHWM:"))
