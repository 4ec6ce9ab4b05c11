"""A diffusion or flow model that learns what each user prefers, from pairs of pictures that users compared."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.denoising_preference import DenoisingPreferenceModule
from prl.config import ModelSource
from prl.data.image_encoding import ImagePairEncoder
from prl.diffusion.base import as_rows
from prl.diffusion.denoisers import Condition
from prl.diffusion.denoisers.base import USERS
from prl.diffusion.draws import uniform
from prl.diffusion.user_attention import (
    WEIGHTS,
    add_user_attention,
    load_user_attention,
    save_user_attention,
    taken_off,
    without_users,
)
from prl.diffusion.users import UserExamples, Users
from prl.run_folder.inputs import Inputs, folder_inputs


class PersonalizedPreferenceModule(DenoisingPreferenceModule):
    """PPD (2501.06655): Diffusion-DPO of a network that also attends to the user who made a comparison.

    Beside its attention over prompts the network gets one over the tokens of the row's user, which alone is trained;
    the reference is the network without it. One model then serves many users, also those it has not seen, by a few of
    their comparisons. With users left out it is its base. That the reference reads no user, and the share of users that
    are left out, are not known from the paper: its loss and network are from secondary sources.

    Args:
        model: folder or hub id of a pipeline of diffusers with attention over prompts. Where this module wrote it, what
            is known of users is learnt on, and the base is the reference.
        users: the comparisons that tell users apart. Rows name theirs in the column `user`.
        user_dropout: share of rows in training in which the user is left out.
        settings: the other arguments of `DenoisingPreferenceModule`.

    Raises:
        ValueError: for a share out of its range, or adapters on the model.
        DataError: for comparisons that cannot be read.
    """

    def __init__(self, model: ModelSource, users: UserExamples, user_dropout: float = 0.1, **settings: Any) -> None:
        super().__init__(model, **settings)
        if not 0 <= user_dropout < 1:
            raise ValueError(f"user_dropout is {user_dropout}; expected at least 0 and below 1")
        if model.lora is not None:
            raise ValueError(
                "model.lora is set, but PersonalizedPreferenceModule trains attention over users alone; leave it out"
            )
        if self.rejected is not None:
            raise ValueError(
                "rejected is set, but rows with users are pairs, whose rejected pictures they chose; leave it out"
            )
        self.examples, self.user_dropout = users, user_dropout
        self.users: Any = None

    def read_users(self) -> Users:
        """Read the comparisons of users at the first call; a config alone can be printed without them."""
        if self.users is None:
            self.users = Users(self.examples)
        return self.users

    def build_encoder(self) -> ImagePairEncoder:
        """Build the encoder of pairs with users; the data module calls this."""
        encoder: Any = super().build_encoder()  # of pairs, because `rejected` is not set
        encoder.read_users(self.read_users().numbers, self.examples.path)
        return encoder

    def configure_export(self) -> None:
        """Read the pipeline, and add the attention over users."""
        super().configure_export()
        add_user_attention(self.denoiser, self.model, self.read_users().width, self.noise_seed)
        assert self.source.path is not None
        if (folder := Path(self.source.path).expanduser()).joinpath(WEIGHTS).is_file():
            load_user_attention(self.denoiser, self.model, folder)

    @property
    def starts_as_reference(self) -> bool:
        """Always: without users the network is the base."""
        return True

    def as_reference(self) -> AbstractContextManager[None]:
        """Enter around a pass of the network without users."""
        return without_users(self.model)

    def inputs(self) -> Inputs:
        """Hash the comparisons of users and the network that reads them, too."""
        found = {**super().inputs(), "model.users.examples": self.read_users().fingerprint}
        return found | folder_inputs("model.users.features", self.examples.features)

    def conditions(
        self,
        prompts: Sequence[str],
        keys: Sequence[Any] = (),
        dropout: float = 0.0,
        users: Sequence[str] | None = None,
    ) -> Condition:
        """Encode prompts as `DenoisingStage` does, with the tokens of users, or those of nobody when None."""
        tokens = self.users.nobody(len(prompts)) if users is None else self.users.of(users)
        return {**super().conditions(prompts, keys, dropout), USERS: tokens}

    def row_conditions(self, batch: dict[str, Any], keys: Sequence[Any]) -> Condition:
        """Encode the prompts and users of a batch; in training a share of each is left out."""
        found = super().row_conditions(batch, keys)
        return {**found, USERS: self._left_out(self.users.of(batch["users"]), keys)}

    def _left_out(self, tokens: Tensor, keys: Sequence[Any]) -> Tensor:
        if not self.training:
            return tokens
        kept = uniform([("user", *key) for key in keys], tokens.device) >= self.user_dropout
        return tokens * as_rows(kept, tokens)

    @torch.no_grad()
    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Return what `DenoisingPreferenceModule` does of each validation pair, and its user."""
        rows = super().predict_step(batch, batch_idx)
        return [{"user": user, **row} for user, row in zip(batch["users"], rows, strict=True)]

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the base for plain diffusers, attention over users beside it. Raises ValueError for merge: false."""
        with taken_off(self.model):
            super().export(folder, merge=merge)
        save_user_attention(self.model, folder)

    def card_kind(self, folder: Path) -> str | None:
        """Return the kind of model that a card describes."""
        return "personalized_pictures"
