"""Responses that the policy revises, as policies of SRPO learn to: shown its own response, it is asked for a better."""

import sys
from dataclasses import replace

from prl.config import ModelSource
from prl.data import AnchoredPrompt
from prl.data.encoding import PromptEncoder
from prl.data.revisions import revision_turns
from prl.models.limits import check_fits
from prl.rollouts.prompts import PromptSampler
from prl.types import Rollout

SEED = 250_007
"""Distance of the seeds of two revisions."""


class RevisingSampler:
    """A sampler whose responses are revised some times by the same policy (2406.01660).

    Args:
        sampler: of the first responses.
        source: its policy.
        revisions: of each response; each sees the one before, and the prompt as it was.
        revision_prompt: last turn of the prompt for a revision, with {prompt} and {response}; that of the training.

    Raises:
        ValueError: for fewer than no revisions, a revision prompt without its places, or a length that the model cannot
            read.
    """

    def __init__(self, sampler: PromptSampler, source: ModelSource, revisions: int, revision_prompt: str) -> None:
        check_revisions(revisions, revision_prompt)
        self.sampler, self.revisions, self.revision_prompt = sampler, revisions, revision_prompt
        self._encoder = PromptEncoder(sampler.tokenizer, sys.maxsize, needs_anchors=False)
        if revisions:
            words = len(sampler.tokenizer(revision_prompt, add_special_tokens=False)["input_ids"])
            longest = max((row["length"] for row in sampler.rows), default=0)
            check_fits(
                *(source, sampler.tokenizer, longest + words + 2 * sampler.sampling.max_new_tokens),
                role="policy",
                setting="the longest prompt, revision_prompt and twice max_new_tokens",
            )

    def sample(self, start: int, number: int) -> Rollout:
        """Sample the responses to some prompts, and revise them; prompts of the result are those of the file."""
        rollout = self.sampler.sample(start, number)
        for revision in range(1, self.revisions + 1):
            quotes = zip(rollout.batch.prompts, rollout.texts, strict=True)
            asked = [AnchoredPrompt(revision_turns(prompt, text, self.revision_prompt)) for prompt, text in quotes]
            rows = [row for row in map(self._encoder.encode, asked) if row is not None]
            batch = self._encoder.collate(rows).to(self.sampler.device)
            revised = self.sampler.draw(batch, self.sampler.seed + start + SEED * revision)
            rollout = replace(revised, batch=rollout.batch)
        return rollout


def check_revisions(revisions: int, revision_prompt: str) -> None:
    """Refuse revisions that cannot be asked for.

    Raises:
        ValueError: naming the setting.
    """
    if revisions < 0:
        raise ValueError(f"revisions is {revisions}; expected 0 or more")
    if revisions and not all(place in revision_prompt for place in ("{prompt}", "{response}")):
        raise ValueError(f"revision_prompt is {revision_prompt!r}; expected a text with {{prompt}} and {{response}}")
