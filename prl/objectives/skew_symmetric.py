"""A preference between embeddings that need not be one scale: s(u, v) = <R u, v> with R skew-symmetric."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SkewSymmetric:
    """Score of two embeddings in blocks of two numbers, s(u, v) = sum_m u[2m] v[2m+1] - u[2m+1] v[2m].

    That is <R u, v> with the block-diagonal R of the general preference model (2410.02197): s(u, v) = -s(v, u) to the
    last bit and s(u, u) = 0, and preferences may go round in a circle. The probability that u is better is
    sigma(s / tau).

    Raises:
        ValueError: for a dim that is not even, a tau that is not a number above 0, or a prompt head on one block.
    """

    dim: int = 4
    """Numbers of an embedding, two for each block."""
    tau: float = 0.1
    """Scale of the score."""
    normalize: bool = False
    """Whether to divide each embedding by its length."""
    prompt_head: bool = False
    """Whether the prompt weighs the blocks: by softmax(W h_prompt / sqrt(H)) times their number, over H hidden."""

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"GeneralPreference.dim is {self.dim}; expected an even number, two for each block")
        if not 0 < self.tau < math.inf:
            raise ValueError(f"GeneralPreference.tau is {self.tau}; expected a finite number above 0")
        if self.prompt_head and self.dim < 4:
            raise ValueError("GeneralPreference.prompt_head weighs blocks, and dim 2 is a single one; raise dim to 4")

    @property
    def outputs(self) -> int:
        """Numbers that a model gives each text: the embedding, and behind it a number for each block of a prompt."""
        return self.dim + self.prompt_head * self.dim // 2

    def margin(self, first: Tensor, second: Tensor, blocks: Tensor | None = None) -> Tensor:
        """Compute the log-odds s / tau that the first response is better: [N].

        Args:
            first: [N, dim] or [N, outputs] what the model gives the first response, its embedding in front.
            second: the same of the second one.
            blocks: [N, dim / 2] W h_prompt / sqrt(H), what the prompt head says of each block; None without one.

        Raises:
            ValueError: when the blocks of a prompt head are missing, or there without one.
        """
        if (blocks is not None) != self.prompt_head:
            raise ValueError(f"prompt_head is {self.prompt_head}, and the blocks of a prompt are {blocks}")
        u, v = (each[..., : self.dim] for each in (first, second))
        if self.normalize:
            u, v = F.normalize(u, dim=-1), F.normalize(v, dim=-1)
        scores = u[..., 0::2] * v[..., 1::2] - u[..., 1::2] * v[..., 0::2]
        if blocks is not None:
            scores = scores * (blocks.softmax(-1) * blocks.shape[-1])
        return scores.sum(-1) / self.tau

    def blocks(self, outputs: Tensor, hidden: int) -> Tensor | None:
        """Read the blocks out of what a model gives prompts: [N, outputs] -> [N, dim / 2]; None without a prompt head.

        Args:
            outputs: [N, outputs] at the last token of each prompt.
            hidden: width H of the hidden states.
        """
        return outputs[..., self.dim :] / math.sqrt(hidden) if self.prompt_head else None
