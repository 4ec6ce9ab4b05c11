"""Adv-GRPO's reward: a discriminator that learns, against reference pictures, beside the policy that it rewards."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from prl.data.images import ImageFiles, as_tensor
from prl.diffusion.rewards.base import ImageReward
from prl.diffusion.rewards.scorers import load_scorer
from prl.distributed import global_sum, world_size

AdversarialLoss = Literal["hinge", "bce", "pairwise"]


def adversarial_loss(real: Tensor, made: Tensor, loss: AdversarialLoss) -> Tensor:
    """Compute a discriminator's loss on scores of reference pictures and of pictures of the policy (2511.20256).

    Args:
        real: [N] scores of reference pictures.
        made: [N] scores of pictures of the policy for the same prompts.
        loss: hinge, (max(0, 1 - real) + max(0, 1 + made)) / 2; bce, -log sigma(real) - log sigma(-made); pairwise,
            -log sigma(real - made).
    """
    if loss == "hinge":
        return 0.5 * (relu(1 - real) + relu(1 + made)).mean()
    if loss == "bce":
        return (softplus(-real) + softplus(made)).mean()
    return softplus(made - real).mean()


class AdversarialReward(ImageReward):
    """The score of a discriminator that takes a step after every iteration (Adv-GRPO, 2511.20256, equations 5 to 14).

    A fixed reward model can be fooled ever better; this one learns what the policy's pictures lack beside reference
    pictures for the same prompts. It learns only where its mean reward of the policy's pictures exceeds that of the
    references, or always. Every process learns from its own pictures, with the mean gradient of all.

    Args:
        path: folder of the reward model to begin with, as of `ImageRewardModule`, or one with random weights.
        references: .jsonl file of reference pictures, rows of prompt and image.
        loss: hinge, bce or pairwise, see `adversarial_loss`.
        learning_rate: of the discriminator.
        trigger: learn always, or where the policy leads.

    Raises:
        ValueError: for a setting out of its range, or a file without references.
    """

    def __init__(
        self,
        path: str,
        references: str,
        loss: AdversarialLoss = "pairwise",
        learning_rate: float = 1e-4,
        trigger: Literal["always", "leads"] = "always",
    ) -> None:
        super().__init__()
        if loss not in ("hinge", "bce", "pairwise"):
            raise ValueError(f"AdversarialReward.loss is {loss!r}; expected hinge, bce or pairwise")
        if trigger not in ("always", "leads"):
            raise ValueError(f"AdversarialReward.trigger is {trigger!r}; expected always or leads")
        if not learning_rate > 0:
            raise ValueError(f"AdversarialReward.learning_rate is {learning_rate}; expected a number above 0")
        self.loss, self.trigger = loss, trigger
        self.scorer = load_scorer(path).requires_grad_(False)
        self.files, self.names = read_references(references)
        self.learner = _Learner(self.scorer, learning_rate)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures: [N]."""
        return self.scorer(images, prompts).sum(1)

    def learn(self, images: Tensor, prompts: Sequence[str], rewards: Tensor) -> dict[str, float]:
        """Take a step on the policy's pictures and as many references for their prompts.

        Raises:
            ValueError: for a prompt without a reference.
        """
        real = torch.stack([self._reference(prompt) for prompt in prompts]).to(images.device)
        lead = float(self.score(images, prompts).mean() - self.score(real, prompts).mean())
        lead = float(global_sum(torch.tensor(lead, device=images.device))) / world_size()
        if self.trigger == "leads" and lead <= 0:
            return {"discriminator/lead": lead}

        def loss() -> Tensor:
            of_real, of_made = self.scorer(torch.cat([real, images]), [*prompts, *prompts]).sum(1).chunk(2)
            return adversarial_loss(of_real, of_made, self.loss)

        return {"discriminator/lead": lead, "discriminator/loss": self.learner.step(loss)}

    def _reference(self, prompt: str) -> Tensor:
        if prompt not in self.names:
            raise ValueError(f"prompt {prompt!r} has no picture in AdversarialReward.references; add one for each")
        names = self.names[prompt]
        return as_tensor(self.files.read(names[int(torch.randint(len(names), ()))], "image"))


class _Learner:
    """The optimizer of a discriminator, and what a checkpoint keeps of both.

    The weights have gradients during a step alone, so that no strategy takes them for the policy's.
    """

    def __init__(self, scorer: Any, learning_rate: float) -> None:
        self.scorer = scorer
        self.optimizer = torch.optim.AdamW(scorer.parameters(), lr=learning_rate)

    @torch.enable_grad()
    def step(self, loss_of: Any) -> float:
        """Take a step, and return the loss."""
        self.scorer.requires_grad_(True)
        loss = loss_of()
        loss.backward()
        for parameter in self.scorer.parameters():
            if parameter.grad is not None:
                parameter.grad = global_sum(parameter.grad) / world_size()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scorer.requires_grad_(False)
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state to save."""
        return copy.deepcopy({"scorer": self.scorer.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.scorer.load_state_dict(state["scorer"])
        self.optimizer.load_state_dict(state["optimizer"])


def read_references(path: str) -> tuple[ImageFiles, dict[str, list[str]]]:
    """Read the names of reference pictures by prompt. Raises ValueError for a file without any."""
    from prl.data.rows.image_records import CaptionedImage
    from prl.data.rows.reading import load_records
    from prl.data.rows.sources import DataSource

    found: dict[str, list[str]] = {}
    for record in load_records(DataSource(path), CaptionedImage).records:
        found.setdefault(record.prompt[0]["content"], []).append(record.image)
    return ImageFiles(Path(path).resolve().parent), found
