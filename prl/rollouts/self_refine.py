"""Sampler that has the policy write the last response to a prompt anew, from its best one and what that lacks."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from prl.data.encoding import encode_prompt
from prl.data.tokens import left_pad
from prl.distributed import global_sum
from prl.rollouts.base import PolicyHandle, Sampler
from prl.rollouts.local import LocalSampler
from prl.types import Conversation, Critique, PromptBatch, Rollout

log = logging.getLogger(__name__)

INSTRUCTION = """\
Your response does not meet the criteria below. Write it anew so that it meets all of them, and answer with the new \
response alone."""


class SelfRefine(Sampler):
    """Draw the last of G responses to a prompt from a refinement of the best of the others (RGR-GRPO, 2511.12344).

    The first G - 1 responses are drawn from the prompt q and graded by the run's reward. Where the best one, o_best,
    leaves criteria unmet, the last is o_G ~ pi_old(. | q, o_best, unmet criteria): q, o_best as the assistant's turn,
    and a user's turn with the instruction and the unmet criteria, by the policy's chat template. It stands in the
    rollout under q, and so do its log-probabilities, reference, critic and advantage; `Rollout.guided` names it, for an
    objective such as `RGRGRPO`. The last response is drawn from q where the best one meets all criteria, where no
    response could be graded, and where the refinement prompt is longer than `max_prompt_length`, which is counted.

    The best response has the highest reward before shaping; of equal ones the one that meets most by weight, then the
    first. A response to a prompt of its own, as in validations, is drawn as ever. What the refinement prompt says is
    not found in a summary of the paper: the instruction is our choice.

    Args:
        instruction: the user's turn, to which the unmet criteria are added, each on a line.
        max_prompt_length: longest refinement prompt, tokens; the policy must have positions for it and a response.
        sampler: draws all responses; the policy in this process when null.

    Raises:
        ValueError: for an empty instruction, or a max_prompt_length below 1.
    """

    min_per_prompt = 2
    needs_critique = True
    max_prompt_length: int

    def __init__(
        self, instruction: str = INSTRUCTION, max_prompt_length: int = 2048, sampler: Sampler | None = None
    ) -> None:
        if not instruction.strip():
            raise ValueError(f"SelfRefine.instruction is {instruction!r}; expected a text")
        if max_prompt_length < 1:
            raise ValueError(f"SelfRefine.max_prompt_length is {max_prompt_length}; expected at least 1")
        self.instruction, self.max_prompt_length = instruction, max_prompt_length
        self.sampler = sampler or LocalSampler()
        if self.sampler.needs_anchors or self.sampler.has_environment or self.sampler.needs_critique:
            raise ValueError(
                f"SelfRefine.sampler is {type(self.sampler).__name__}, which writes more than the policy's answer to a "
                "prompt; use LocalSampler or RolloutServer"
            )
        self.takes_weights = self.sampler.takes_weights
        self._counts = torch.zeros(3)

    def check(self, start: str | None, read: list[str]) -> None:
        """Check the sampler of the responses, as `Sampler.check`."""
        self.sampler.check(start, read)

    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt; the last of several to one prompt is a refinement where there is need.

        Every process draws twice, or once where prompts have a single response each, whatever has to be refined.

        Raises:
            RowError: when the policy's chat template refuses a refinement prompt.
        """
        last = _last_of_several(batch.group)
        if not last.any():
            return self.sampler.sample(batch, policy)
        first = self.sampler.sample(batch.select(~last), policy)
        critiques = policy.critique(first)
        of_prompt: dict[int, list[Critique]] = {}
        for number, each in zip(first.group.tolist(), critiques, strict=True):
            of_prompt.setdefault(number, []).append(each)
        asked = batch.select(last)
        best = [find_best(of_prompt[number]) for number in asked.group.tolist()]
        prompts, refined, too_long = self._prompts(asked, best, policy)
        drawn = self.sampler.sample(prompts, policy)
        self._counts = torch.tensor([float(len(asked)), float(sum(refined)), float(too_long)])
        guided = torch.tensor(refined, device=batch.group.device)
        return _merged(batch, last, first, drawn, refined=guided, pad_id=int(policy.tokenizer.pad_token_id))

    def answer(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt, from the prompt alone."""
        return self.sampler.answer(batch, policy)

    def numbers(self) -> dict[str, float]:
        """Return the shares of prompts of all processes with a refinement, and of those where it would be too long."""
        prompts, refined, too_long = global_sum(self._counts).tolist()
        shares = {"refined_frac": refined, "refinement_too_long_frac": too_long}
        return {f"rollout/{name}": count / max(prompts, 1.0) for name, count in shares.items()}

    def _prompts(
        self, asked: PromptBatch, best: Sequence[Critique | None], policy: PolicyHandle
    ) -> tuple[PromptBatch, list[bool], int]:
        """Encode what the last responses are drawn from; tell which are refinements, and how many would be too long."""
        rows, refined, too_long = [], [], 0
        own = zip(asked.prompt_ids.tolist(), asked.prompt_mask.tolist(), strict=True)
        for (ids, mask), prompt, critique in zip(own, asked.prompts, best, strict=True):
            rows.append([token for token, counts in zip(ids, mask, strict=True) if counts])
            refined.append(False)
            if critique is not None and critique.failed:
                written = encode_prompt(policy.tokenizer, self.conversation(prompt, critique))
                if len(written) > self.max_prompt_length:
                    too_long += 1
                else:
                    rows[-1], refined[-1] = written, True
        if too_long and not self._counts[2]:
            log.warning(
                "%d of %d refinement prompts are longer than sampler.max_prompt_length, %d tokens, and their responses "
                "are drawn from the prompt alone; raise it, or watch rollout/refinement_too_long_frac",
                *(too_long, len(asked), self.max_prompt_length),
            )
        written_ids, written_mask = left_pad(rows, int(policy.tokenizer.pad_token_id))
        device = asked.prompt_ids.device
        return replace(asked, prompt_ids=written_ids.to(device), prompt_mask=written_mask.to(device)), refined, too_long

    def conversation(self, prompt: Conversation, critique: Critique) -> Conversation:
        """Write the refinement prompt: the prompt, its response, and what that lacks, each criterion on one line."""
        unmet = "".join(f"\n- {' '.join(each.split())}" for each in critique.failed)
        return [
            *prompt,
            {"role": "assistant", "content": critique.response},
            {"role": "user", "content": self.instruction + unmet},
        ]


def find_best(critiques: Sequence[Critique]) -> Critique | None:
    """Find the response with the highest reward, then the highest share of criteria; None where none was graded."""
    graded = [each for each in critiques if each.reward == each.reward]
    return max(graded, key=lambda each: (each.reward, each.share), default=None)


def _last_of_several(group: Tensor) -> Tensor:
    """Tell which rows are the last of their prompt, where it has several: [B] bool."""
    numbers = group.tolist()
    last, count = {number: row for row, number in enumerate(numbers)}, Counter(numbers)
    return torch.tensor([last[n] == row and count[n] > 1 for row, n in enumerate(numbers)], device=group.device)


def _merged(
    batch: PromptBatch, last: Tensor, first: Rollout, drawn: Rollout, *, refined: Tensor, pad_id: int
) -> Rollout:
    """Put both draws into the rows of the batch, under its own prompts."""
    width = max(first.response_ids.shape[1], drawn.response_ids.shape[1])
    order = torch.cat([(~last).nonzero()[:, 0], last.nonzero()[:, 0]]).argsort()

    def both(name: str) -> Tensor:
        parts = [getattr(each, name) for each in (first, drawn)]
        if parts[0].dim() == 2:
            parts = [pad(each, (0, width - each.shape[1])) for each in parts]
        return torch.cat(parts)[order]

    texts = [*first.texts, *drawn.texts]
    mask = both("response_mask")
    ids = both("response_ids").masked_fill(~mask, pad_id)
    guided = torch.zeros_like(last).masked_scatter(last, refined)
    found = [texts[place] for place in order.tolist()]
    return Rollout(batch, ids, mask, both("finished"), found, first.max_new_tokens, guided=guided)
