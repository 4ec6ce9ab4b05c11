"""What the phases of an iteration cost: seconds, and peak memory of the GPU or, without one, of the process."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

_GIB = 2**30


class PhaseTimer:
    """Sums seconds and keeps the highest peak of each phase until it is cleared."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak_gib: dict[str, float] = {}

    def clear(self) -> None:
        """Start a new iteration."""
        self.seconds.clear()
        self.peak_gib.clear()

    @contextmanager
    def measure(self, name: str, device: torch.device) -> Iterator[None]:
        """Measure a phase; one phase does not contain another."""
        known, start = _reset_peak(device), perf_counter()
        yield
        self.seconds[name] += perf_counter() - start
        if known:
            self.peak_gib[name] = max(self.peak_gib.get(name, 0.0), _peak_gib(device))


def _reset_peak(device: torch.device) -> bool:
    """Whether the peak from here on can be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark of resident memory starts anew
    except OSError:
        return False
    return True


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / _GIB for line in lines if line.startswith("VmHWM:"))
