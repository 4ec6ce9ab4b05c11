"""Base of reward sources that are made of others, each with a name."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import nn

from prl.rewards.base import RewardSource


class NamedSources(RewardSource):
    """Holds reward sources by name, in `parts`; what is made of their rewards is up to the subclass.

    Args:
        sources: the sources by name, in the order in which they are read.
    """

    def __init__(self, sources: Mapping[str, RewardSource]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(cast(dict[str, nn.Module], dict(sources)))

    def named(self) -> Iterator[tuple[str, RewardSource]]:
        """Yield the name of each source, and the source."""
        parts: Any = self.parts.items()
        yield from parts

    def load(self) -> None:
        """Load each source."""
        for _, source in self.named():
            source.load()

    def leaves(self) -> Iterator[RewardSource]:
        """Yield every source, those inside of sources too."""
        for _, source in self.named():
            yield from source.leaves()

    def failure(self) -> str | None:
        """Return the last failure of each source, with the source's name."""
        told = [f"{name}: {source.failure()}" for name, source in self.named() if source.failure()]
        return "; ".join(told) or None

    def truncated_fraction(self) -> float:
        """Return the largest truncated share of any source."""
        return max(source.truncated_fraction() for _, source in self.named())

    def cached_token_fraction(self) -> float:
        """Return the largest cached share of any source."""
        return max(source.cached_token_fraction() for _, source in self.named())
