"""Rollouts that begin with a part of a reference response."""

import torch

from prl.data.marks import encode_content
from prl.data.turns import encode_turn
from prl.rollouts.base import PolicyHandle, Sampler
from prl.rollouts.transcripts import Transcript, add_own, continued, to_rollout
from prl.types import PromptBatch, Rollout


class PrefixReset(Sampler):
    """Start a share of the rollouts inside a reference response (DR-PO 2404.08495).

    With probability beta the response begins with k tokens of the prompt's reference response, its first anchor in the
    data, and the policy goes on from there; otherwise the policy starts at the prompt. So it learns from states that a
    good response goes through and that it does not reach by itself. The reward is that of the whole text. The policy's
    loss and the KL are on the tokens that it made (the authors' code does the same).

    k is uniform on 0 ... the tokens of the reference without its end, at most `sampling.max_new_tokens` - 1: the law is
    our choice, since the authors' is in a package that is not public, and one token at least is the policy's.
    `sampling.max_new_tokens` limits prefix and continuation together, so that no row is longer than without a prefix.
    All responses to a prompt begin alike, which leaves the comparisons of group methods fair; with one response to a
    prompt, as the authors have it, this changes nothing. The critic learns on the policy's tokens alone, where the
    authors train it on the prefix too: values there are in no advantage. Validations and predictions start at the
    prompt. The policy samples in the process that trains it.

    Args:
        beta: probability that the rollouts of a prompt begin with a prefix; 0 is plain sampling to the bit.

    Raises:
        ValueError: for a beta outside [0, 1].
    """

    needs_anchors = True

    def __init__(self, beta: float = 1.0) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"PrefixReset.beta is {beta}; expected a probability in [0, 1]")
        self.beta = beta

    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt, behind a prefix where one is drawn."""
        if not self.beta:
            return policy.generate(batch)
        groups = int(batch.group.max()) + 1
        begins, shares = (torch.rand(groups) < self.beta).tolist(), torch.rand(groups, dtype=torch.float64).tolist()
        most = policy.sampling.max_new_tokens
        prefixes: dict[int, list[int]] = {}
        for row, group in enumerate(batch.group.tolist()):
            if group not in prefixes:
                ids = _reference(batch, row, policy)[: most - 1] if begins[group] else []
                prefixes[group] = ids[: int(shares[group] * (len(ids) + 1))]
        transcripts = [Transcript() for _ in range(len(batch))]
        for each, group in zip(transcripts, batch.group.tolist(), strict=True):
            each.add(prefixes[group], own=False)
        limits = torch.tensor([most - len(each.ids) for each in transcripts], device=batch.prompt_ids.device)
        pad_id = int(policy.tokenizer.pad_token_id)
        add_own(transcripts, policy.generate(continued(batch, transcripts, pad_id), limits))
        return to_rollout(batch, transcripts, policy.tokenizer, most)

    def answer(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt, from the prompt alone."""
        return policy.generate(batch)


def _reference(batch: PromptBatch, row: int, policy: PolicyHandle) -> list[int]:
    """Encode the reference response of a prompt as the policy would write it, without its end.

    Raises:
        ValueError: when the prompt has none.
    """
    prompt, tokenizer = batch.prompts[row], policy.tokenizer
    if not batch.anchors[row]:
        raise ValueError(
            f"PrefixReset begins rollouts with the first anchor of a prompt, and the one that begins "
            f"{prompt[0]['content'][:60]!r} has none; add a column 'anchor' to the data, or map one"
        )
    text = batch.anchors[row][0]
    if not tokenizer.chat_template:
        return encode_content(tokenizer, text)
    ids = batch.prompt_ids[row][batch.prompt_mask[row]].tolist()
    return encode_turn(tokenizer, prompt, ids, text)[0]
