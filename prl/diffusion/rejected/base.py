"""Socket of sources of rejected pictures: what the model in training makes of the prompts of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prl.diffusion.base import NoisyLatents
from prl.diffusion.denoisers.base import Condition, Denoiser
from prl.diffusion.draws import Key
from prl.diffusion.snapshots import EarlierNetwork, Weights, trained_weights


@dataclass(frozen=True)
class RejectedRows:
    """N rows for which rejected pictures are made, each beside a chosen picture of the data."""

    denoiser: Denoiser
    """The frozen parts of the pipeline."""
    network: Any
    """The network in training."""
    keys: Sequence[Key]
    """Names of the draws of each row."""
    condition: Condition
    """Encoded prompts, N rows."""
    null: Condition
    """Encoded empty prompts, N rows."""
    share: Tensor
    """[N] way from clean to noise, from 0 to 1, at which the rejected picture is read."""
    noise: Tensor
    """[N, ...] noise of the rejected picture."""


class RejectedSource(ABC):
    """Makes rejected pictures by earlier weights of the network in training, which it keeps.

    The arguments of the constructor are the settings. The kept weights are part of a checkpoint.

    Args:
        every: training batches from one snapshot to the next.

    Raises:
        ValueError: for fewer than one batch.
    """

    is_reference: bool = False
    """True where the network that makes the pictures is the reference too, in place of the start of the run."""

    def __init__(self, every: int) -> None:
        if every < 1:
            raise ValueError(f"{type(self).__name__}.every is {every}; expected at least 1 training batch")
        self.every = every
        self._ready: EarlierNetwork | None = None

    def begin_batch(self, batches: int, seed: int, network: Any) -> None:
        """Take a snapshot before a training batch where one is due.

        Args:
            batches: training batches of the run before this one.
            seed: seed of draws.
            network: the network in training.
        """
        if batches % self.every == 0:
            self.take(trained_weights(network), (seed, "snapshot", batches))
            self._ready = None

    @abstractmethod
    def take(self, weights: Weights, key: Key) -> None:
        """Keep a snapshot; the key names draws that belong to it."""

    @property
    @abstractmethod
    def weights(self) -> Weights | None:
        """Weights of the network that makes the pictures; None before the first training batch."""

    def maker(self, network: Any) -> Any:
        """Return the network that makes the pictures; the one in training before the first training batch."""
        if self._ready is None and self.weights is not None:
            self._ready = EarlierNetwork(network, self.weights)
        return network if self._ready is None else self._ready

    @abstractmethod
    def states(self, rows: RejectedRows) -> NoisyLatents:
        """Make a noisy state of a rejected picture for each row, and what is to be predicted of it."""
