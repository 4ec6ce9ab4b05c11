"""What rows of pairs may have beside the pair: a calibration response, and log-probabilities of all candidates."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt
from prl.data.encoding import DemonstrationEncoder
from prl.data.rows.records import Demonstration
from prl.models.logprobs import completion_logprobs
from prl.pairs.candidates import Candidates
from prl.rollouts.prompts import PromptSampler
from prl.types import Conversation

SEED = 500_009
"""Distance of the seeds of calibration responses from those of the candidates."""


class CalibrationSampler:
    """Samples one response to each prompt from a policy that need not be the one that answers, for VPO (2405.19320).

    Args:
        source: the policy, whose draws are independent of those of the candidates.
        sampling: length limit and temperature.
        records: all prompts.
        keep_unfinished: take responses that hit the length limit.
        **settings: further ones of `PromptSampler`.
    """

    def __init__(
        self,
        source: ModelSource,
        sampling: Sampling,
        records: Sequence[AnchoredPrompt],
        *,
        keep_unfinished: bool,
        seed: int,
        **settings: object,
    ) -> None:
        self.keep_unfinished = keep_unfinished
        alone = replace(sampling, per_prompt=1)
        self._sampler = PromptSampler(source, alone, records, seed=seed + SEED, **settings)  # type: ignore[arg-type]

    def sample(self, start: int, number: int) -> list[str | None]:
        """Sample the responses to some prompts; None for one that is empty, or unfinished where that does not count."""
        rollout = self._sampler.sample(start, number)
        usable = [finished or self.keep_unfinished for finished in rollout.finished.tolist()]
        return [text if text and use else None for text, use in zip(rollout.texts, usable, strict=True)]


class ProposalLogprobs:
    """Log-probabilities of responses under the policy that sampled them, for BRAIn (2402.02479).

    A response is read as training reads it, with the end of its turn behind it and not cut, under the distribution that
    was sampled, softmax(logits / temperature).
    """

    def __init__(self, sampler: PromptSampler) -> None:
        self._sampler = sampler
        self._encoder = DemonstrationEncoder(sampler.tokenizer, sys.maxsize)

    @torch.no_grad()
    def of(self, prompt: Conversation, texts: Sequence[str]) -> list[float]:
        """Sum the log-probabilities of the tokens of each response to a prompt, nats."""
        rows = [self._encoder.encode(Demonstration(prompt, text)) for text in texts]
        batch = self._encoder.collate([row for row in rows if row is not None])
        inputs = [batch[name].to(self._sampler.device) for name in ("input_ids", "attention_mask", "loss_mask")]
        temperature = self._sampler.sampling.temperature
        logprobs, _ = completion_logprobs(self._sampler.policy, *inputs, temperature=temperature)
        return [float(each) for each in logprobs.double().sum(1)]


@dataclass
class Beside:
    """Further columns of the rows of a prompt; none where both parts are None."""

    calibration: CalibrationSampler | None = None
    proposal: ProposalLogprobs | None = None

    def columns(self, start: int, candidates: Sequence[Candidates | None]) -> list[dict[str, Any] | None]:
        """Make the columns of prompts with these candidates; None where a prompt has no calibration response.

        Args:
            start: number of the first prompt.
            candidates: of each prompt, None where there are none.
        """
        rows: list[dict[str, Any] | None] = [{} for _ in candidates]
        if self.calibration is not None:
            texts = self.calibration.sample(start, len(candidates))
            rows = [None if text is None else {"calibration": text} for text in texts]
        if self.proposal is not None:
            for row, of_prompt in zip(rows, candidates, strict=True):
                if row is not None and of_prompt is not None:
                    row["proposal_logprobs"] = self.proposal.of(of_prompt.prompt, of_prompt.texts)
        return rows
