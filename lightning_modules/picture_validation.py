"""Pictures that a validation makes: their reward, and a grid of them in TensorBoard."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from prl.diffusion.draws import normal
from prl.diffusion.rewards import ImageReward
from prl.diffusion.sampling import ImageSampling, Prompted, sample_latents
from prl.distributed import gathered, global_max


class PictureValidation:
    """Makes a picture for each of the first validation prompts, always from the same noise.

    Args:
        module: the stage; its network makes the pictures.
        sampling: how they are made.
        rewards: their rewards, by the name to log them under.
        measured: prompts that a picture is made for.
        shown: pictures of the grid.
    """

    def __init__(
        self, module: Any, sampling: ImageSampling, rewards: dict[str, ImageReward], measured: int, shown: int
    ) -> None:
        self.module, self.sampling, self.rewards = module, sampling, rewards
        self.shown, self.measured = shown, measured if rewards else min(measured, shown)
        self._before: tuple[Tensor, Tensor] | None = None
        self.begin()

    def begin(self) -> None:
        """Forget the pictures of an earlier validation."""
        self._rows: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._images: list[Tensor] = []

    def add(self, prompts: Sequence[str], index: Tensor, users: Sequence[str] | None = None) -> None:
        """Make pictures for the rows of a batch whose number is below `measured`, for their users if rows name them."""
        wanted = (index < self.measured).nonzero().squeeze(1).tolist()
        if not int(global_max(torch.tensor(len(wanted), device=self.module.device))):
            return
        sharding = self.module.sharding
        # Some processes may make more pictures than others, or none, so weights in shards are put together before.
        with sharding.unsharded(self.module.model) if sharding.cuts_weights else nullcontext():
            if not wanted:
                return
            texts, rows = [prompts[n] for n in wanted], index[wanted].cpu()
            own = None if users is None else [users[n] for n in wanted]
            images = self.make(texts, [("validation", int(row)) for row in rows], own)
        self._rows.append(rows)
        scores = list(self.score(images, texts).values())
        self._scores.append(torch.stack(scores, 1) if scores else images.new_zeros(len(images), 0).cpu())
        self._images.append(images[(rows < self.shown).to(images.device)].cpu())

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Score pictures by each reward: name -> [N]. Raises ValueError for scores of another shape."""
        found = {name: reward.score(images, prompts).float().cpu() for name, reward in self.rewards.items()}
        for name, each in found.items():
            check_rewards(self.rewards[name], each, len(images))
        return found

    @torch.no_grad()
    def make(
        self, prompts: Sequence[str], keys: Sequence[tuple[Any, ...]], users: Sequence[str] | None = None
    ) -> Tensor:
        """Make a picture for each prompt from the noise that its key names: [N, C, H, W] from -1 to 1.

        Guidance leads away from pictures without a prompt and, of a module that knows users, without a user.
        """
        module, denoiser = self.module, self.module.denoiser
        own = {} if users is None else {"users": users}
        named = [(module.noise_seed, *key) for key in keys]
        noise = normal(named, denoiser.latent_shape, module.device)
        null = None if self.sampling.guidance == 1 else module.conditions([""] * len(prompts))
        predict: Any = Prompted(denoiser, module.model, module.conditions(prompts, **own), null, self.sampling.guidance)
        if self.sampling.guide is not None:
            predict = self.sampling.guide.around(predict, denoiser, prompts, module.device)
        was_training = module.model.training
        module.model.eval()
        latents = sample_latents(denoiser.process, predict, noise, self.sampling.steps)
        module.model.train(was_training)
        return denoiser.to_images(latents)

    def finish(self) -> None:
        """Log mean rewards over the pictures of all processes, and draw those shown, in the order of their rows.

        Those of a whole validation before training (`trainer.num_sanity_val_steps: -1`) are kept for `show_before`.
        """
        of_ranks = gathered((self._rows, self._scores, self._images))
        self.begin()
        rows = torch.cat([each for own, _, _ in of_ranks for each in own] or [torch.zeros(0)])
        if not len(rows):
            return
        order = rows.argsort(stable=True)
        means = torch.cat([each for _, own, _ in of_ranks for each in own])[order].mean(0)
        images = torch.cat([each for *_, own in of_ranks for each in own])
        shown = images[rows[rows < self.shown].argsort(stable=True)]
        trainer = self.module.trainer
        if trainer.sanity_checking:
            self._before = (means, shown) if trainer.num_sanity_val_steps == float("inf") else None
            return
        for name, mean in zip(self.rewards, means, strict=True):
            self.module.log(f"val/{name}", mean, prog_bar=True, rank_zero_only=True)
        self._draw(shown, self.module.logged_step())

    def show_before(self) -> None:
        """Write what the validation before training found, at step 0, of which Lightning logs nothing."""
        board = self.module.tensorboard
        if self._before is not None and board is not None:
            means, shown = self._before
            for name, mean in zip(self.rewards, means, strict=True):
                board.add_scalar(f"val/{name}", float(mean), 0)
            self._draw(shown, 0)
        self._before = None

    def _draw(self, shown: Tensor, step: int) -> None:
        board = self.module.tensorboard
        if board is not None and len(shown):
            board.add_image("pictures", grid(shown), step)


def check_rewards(reward: ImageReward, found: Tensor, count: int) -> None:
    """Refuse rewards of another shape than one number for each picture. Raises ValueError."""
    if tuple(found.shape) != (count,):
        raise ValueError(
            f"{type(reward).__name__} gave rewards of shape {tuple(found.shape)}; expected a number for each picture, "
            f"[{count}]"
        )


def grid(images: Tensor, columns: int = 8) -> Tensor:
    """Lay pictures [N, C, H, W], or the frames of clips [N, C, F, H, W] below each other, side by side.

    Returns [C, H of the grid, W of the grid] from 0 to 1, of values from -1 to 1.
    """
    if images.dim() == 5:
        images = images.flatten(2, 3)  # the frames of a clip lie below each other in memory already
    count, channels, height, width = images.shape
    columns = min(columns, count)
    missing = -count % columns
    padded = torch.cat([images, images.new_full((missing, channels, height, width), -1)])
    tiles = padded.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)
    return ((tiles.reshape(channels, -1, columns * width) + 1) / 2).clamp(0, 1)
