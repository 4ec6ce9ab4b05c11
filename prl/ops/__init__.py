"""The registered operators and the choice of their implementation."""

from prl.ops import operators
from prl.ops.kernels import Kernel, active_for, load, status

load()

__all__ = ["Kernel", "active_for", "operators", "status"]
