"""Scalar reward of a Bradley-Terry model, without an anchor: the reward of scalar PPO, the baseline."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prl.config import ModelSource
from prl.data.encoding import ConversationEncoder
from prl.data.tokens import right_pad
from prl.models.limits import check_fits
from prl.models.loading import freeze, load_scalar_classifier, load_tokenizer
from prl.models.policy import float32_outputs, in_own_type, model_inputs
from prl.rewards.base import RewardSource, scores_from_values
from prl.rewards.folder import JUDGE_FILE, head_names_of, head_weights_of, judge_folder, read_judge_file
from prl.types import Conversation, Rollout, Scores


def head_rewards(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the numbers of H heads for each row: [N, S] -> [N, H] float32.

    The reward is read at the last token that is not the padding id, as by transformers' own class. Where padding and
    end of sequence share an id, that is the token before the end.
    """
    return model(**model_inputs(input_ids, attention_mask)).logits.float()


def weighted_reward(rewards: Tensor, head_weights: Sequence[float] = (1.0,)) -> Tensor:
    """Add up what the heads say, each with its weight, as r(x, y): [N, H] -> [N]."""
    return (rewards * rewards.new_tensor(head_weights)).sum(-1)


class ScalarReward(RewardSource):
    """Reward r(x, y) of a Bradley-Terry model. Anchors, where rows have any, serve the logged win rate only.

    `BradleyTerryJudge` instead rewards a response by its comparison with the anchor.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    needs_anchors = False

    def __init__(self, path: str, dtype: str = "float32", batch_size: int = 64) -> None:
        super().__init__()
        self.path, self.dtype, self.batch_size = path, dtype, batch_size
        self.folder = path
        self.head_weights: tuple[float, ...] = (1.0,)
        self.head_names: tuple[str, ...] = ()
        self.model: Any = None
        self.encoder: ConversationEncoder | None = None

    def model_source(self) -> ModelSource | None:
        """Return the source of the model: its folder."""
        return ModelSource(path=judge_folder(self.path), dtype=self.dtype)  # type: ignore[arg-type]

    def load(self) -> None:
        """Load weights and tokenizer; safe to call twice."""
        if self.model is not None:
            return
        self.folder = judge_folder(self.path)
        settings = read_judge_file(self.folder)
        if settings["kind"] != "bradley_terry":
            raise ValueError(
                f"{self.path} holds a {settings['kind']} judge, not a Bradley-Terry one; name the class "
                "GenerativeJudge, or give a classifier with one label"
            )
        source = ModelSource(path=self.folder, dtype=self.dtype)  # type: ignore[arg-type]
        tokenizer = load_tokenizer(source)
        check_fits(source, tokenizer, settings["max_length"], role="judge", setting=f"max_length in its {JUDGE_FILE}")
        self.encoder = ConversationEncoder(tokenizer, settings["max_length"], "truncate")
        self.head_weights = head_weights_of(settings)
        self.head_names = head_names_of(settings)
        self.model = freeze(load_scalar_classifier(source, new_head=False, heads=len(self.head_weights)))

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by its scalar."""
        prompts = rollout.batch.prompts
        return scores_from_values(rollout, lambda rows, texts: self.rewards([prompts[row] for row in rows], texts))

    def truncated_fraction(self) -> float:
        """Return the share of responses so far that were longer than the model's `max_length`."""
        return self.encoder.counts.truncated_fraction if self.encoder is not None else 0.0

    def rewards(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """Compute r(x, y) of each response, equal ones once: [N] float32."""
        return weighted_reward(self.heads(prompts, responses), self.head_weights)

    @torch.no_grad()
    def heads(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """Compute what each head says of each response, equal ones once: [N, H] float32."""
        assert self.encoder is not None, "call load() first"
        texts = [(json.dumps(prompt), text) for prompt, text in zip(prompts, responses, strict=True)]
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = [self.encoder.encode_response(json.loads(prompt), text) for prompt, text in index]
        heads = self._heads([row["ids"] for row in rows if row])
        return heads[torch.tensor([index[text] for text in texts], dtype=torch.long, device=heads.device)]

    def _heads(self, rows: list[list[int]]) -> Tensor:
        assert self.encoder is not None
        device = next(self.model.parameters()).device
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        heads = torch.empty(len(rows), len(self.head_weights), device=device)
        # In the type in which the model was measured, with the reward itself in float32.
        with in_own_type(device), float32_outputs(getattr(self.model, "score", None)):
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                ids, mask = (
                    each.to(device)
                    for each in right_pad([rows[i] for i in batch], int(self.encoder.tokenizer.pad_token_id))
                )
                heads[torch.tensor(batch, device=device)] = head_rewards(self.model, ids, mask)
        return heads
