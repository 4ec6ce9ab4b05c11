"""Pairwise PPO whose responses are a function of the prompts: runs then differ only in how rows are divided."""

import zlib

import torch

from lightning_modules import PairwisePPOModule
from prl.rollouts.generate import decode
from prl.types import PromptBatch, Rollout


class PlannedPPO(PairwisePPOModule):
    """Responses of very unequal lengths, always the same ones to a prompt."""

    def generate(self, batch: PromptBatch, *, training: bool = True) -> Rollout:
        limit, vocabulary = self.sampling.max_new_tokens, len(self.tokenizer)
        rows, lengths = [], []
        for prompt in batch.prompts:
            seed = zlib.crc32(prompt[-1]["content"].encode())
            lengths.append(seed % limit + 1)
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.randint(5, vocabulary, (limit,), generator=generator))
        width = max(lengths)
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        ids = torch.stack(rows)[:, :width].masked_fill(~mask, int(self.tokenizer.pad_token_id))
        finished = torch.tensor(lengths) < limit
        texts = decode(self.tokenizer, ids, mask, finished)
        device = batch.prompt_ids.device
        return Rollout(batch, ids.to(device), mask.to(device), finished.to(device), texts, limit)
