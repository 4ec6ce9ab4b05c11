"""One of the rollouts of a prompt, drawn at random, as the anchor of all of them."""

import torch

from prl.anchors.base import AnchorSource, Policies
from prl.config import Sampling
from prl.types import PromptBatch


class GroupReference(AnchorSource):
    """One rollout of the prompt, drawn anew each time with equal chances, is the anchor of all: BRPO (2506.00103).

    The reference improves with the policy, and costs one comparison for each response in place of one for each pair of
    them (`RoundRobin`). It is compared with itself too, which is a tie to the last bit and costs two readings of a
    judge. Draws come from torch's generator on the CPU, whose state is in checkpoints.
    """

    def check(self, sampling: Sampling) -> None:
        """Refuse a single rollout per prompt. Raises ValueError."""
        if sampling.per_prompt < 2:
            raise ValueError(
                f"sampling.per_prompt is {sampling.per_prompt}, but GroupReference compares the rollouts of a prompt "
                "with one of them; it needs at least 2"
            )

    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Draw one rollout of each prompt."""
        per_prompt = len(responses) // len(batch)
        anchors: list[tuple[str, ...]] = []
        for number, drawn in enumerate(torch.randint(per_prompt, (len(batch),)).tolist()):
            anchors += [(responses[number * per_prompt + drawn].strip(),)] * per_prompt
        return anchors
