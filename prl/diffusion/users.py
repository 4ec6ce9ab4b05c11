"""Users of personal preferences: each is a few comparisons of pictures, which a network reads as tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prl.data.columns import read_user
from prl.data.images import ImageFiles, as_tensor, pixel_hash
from prl.data.rows.image_records import ImagePair
from prl.data.rows.reading import RecordStream
from prl.data.rows.row_errors import DataError, RowError
from prl.data.rows.sources import DataSource
from prl.data.tokens import settings_hash
from prl.diffusion.rewards.scorers import load_scorer
from prl.models.loading import freeze

_CHUNK = 256
"""Pictures that are embedded at a time."""


@dataclass(frozen=True)
class UserExamples:
    """What says who the users are. Raises ValueError if a field makes no sense."""

    path: str
    """File of comparisons: pairs of pictures in any shape, with a column `user`."""
    features: str
    """Folder of a reward model of pictures, or a folder or hub id of a CLIP, whose embedding of pictures is read."""
    per_user: int = 4
    """Comparisons that are read of each user, the first of the file; 4 in the paper."""

    def __post_init__(self) -> None:
        if self.per_user < 1:
            raise ValueError(f"users.per_user is {self.per_user}; expected at least 1")


class Users(nn.Module):
    """Tokens of users, one for each of their comparisons (PPD, 2501.06655).

    A token is f(chosen) - f(rejected), scaled to a mean square of 1, where f is a frozen network's embedding of a
    picture. Attention has no positions over tokens, so the order of a user's comparisons does not matter. The paper
    has hidden states of a vision-language model in their place.

    Args:
        examples: the file and the network.

    Raises:
        DataError: for rows, users or pictures that cannot be read.
        ModelNotFoundError: for features that are not there.
    """

    tokens: Tensor
    """[U, E, D]."""

    def __init__(self, examples: UserExamples) -> None:
        super().__init__()
        self.examples = examples
        found = _Comparisons(examples)
        self.fingerprint = settings_hash(found.hashes)
        """Hash of the users and the pixels of their pictures."""
        self.numbers = {name: number for number, name in enumerate(found.pictures)}
        pictures = torch.stack([torch.stack(each) for each in found.pictures.values()])
        self.register_buffer("tokens", _tokens(examples.features, pictures), persistent=False)

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.tokens.shape[-1]

    def of(self, names: Sequence[str]) -> Tensor:
        """Return the tokens of users: [N, E, D].

        Raises:
            ValueError: for a user without comparisons.
        """
        if unknown := [name for name in names if name not in self.numbers]:
            raise ValueError(
                f"user {unknown[0]!r} has no comparisons in {self.examples.path}; add {self.examples.per_user} of them"
            )
        return self.tokens[[self.numbers[name] for name in names]]

    def nobody(self, count: int) -> Tensor:
        """Return tokens that stand for no user, with which a model is its base: zeros [N, E, D]."""
        return self.tokens.new_zeros(count, *self.tokens.shape[1:])


class _Comparisons:
    """The first comparisons of each user, with their pictures; all rows are checked before one is used."""

    def __init__(self, examples: UserExamples) -> None:
        self.files = ImageFiles(Path(examples.path).resolve().parent)
        self.wanted = examples.per_user
        self.pictures: dict[str, list[Tensor]] = {}
        """User -> [2, C, H, W] of each comparison, chosen before rejected."""
        self.hashes: dict[str, list[list[str]]] = {}
        self.shape: tuple[int, ...] | None = None
        stream = RecordStream(DataSource(examples.path), ImagePair, further=("user",))
        for record in stream:
            try:
                self._add(record)
            except RowError as error:
                stream.refuse(error)
        for name, own in self.pictures.items():
            if len(own) < self.wanted:
                raise DataError(
                    f"user {name!r} has {len(own)} comparisons in {examples.path}; expected at least {self.wanted}. "
                    "Add more, remove the user, or set users.per_user to fewer"
                )

    def _add(self, record: ImagePair) -> None:
        name = read_user(record)
        if len(self.pictures.setdefault(name, [])) == self.wanted:
            return
        if record.preference == 0.5:
            raise RowError("tie", None, "a tie", expected="a comparison with a winner", fix="Remove the row.")
        sides = {"chosen": record.chosen, "rejected": record.rejected}
        pixels = [self.files.read(each, field) for field, each in sides.items()]
        for field, each in zip(sides, pixels, strict=True):
            self.shape = self.shape or each.shape
            if each.shape != self.shape:
                found, expected = list(each.shape), f"{list(self.shape)}, as the first picture of the file"
                raise RowError("another size", field, f"a picture of {found}", expected=expected, fix="Scale it.")
        if record.preference < 0.5:
            pixels.reverse()
        self.pictures[name].append(torch.stack([as_tensor(each) for each in pixels]))
        self.hashes.setdefault(name, []).append([pixel_hash(each) for each in pixels])


@torch.no_grad()
def _tokens(features: str, pictures: Tensor) -> Tensor:
    """Embed pictures [U, E, 2, C, H, W] and take differences: [U, E, D]."""
    network: Any = freeze(load_scorer(features))
    found = torch.cat([network.embed(each).float() for each in pictures.flatten(0, 2).split(_CHUNK)])
    chosen, rejected = found.unflatten(0, pictures.shape[:3]).unbind(2)
    return scaled(chosen - rejected)


def scaled(differences: Tensor) -> Tensor:
    """Scale differences [..., D] to a mean square of 1; those of equal pictures stay 0."""
    return differences / differences.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
