"""Sources of rejected pictures for data without them. `base.py` has the socket, other files one method each."""

from prl.diffusion.rejected.base import RejectedRows, RejectedSource
from prl.diffusion.rejected.earlier_selves import EarlierSelves
from prl.diffusion.rejected.policy_states import PolicyStates

__all__ = ["EarlierSelves", "PolicyStates", "RejectedRows", "RejectedSource"]
