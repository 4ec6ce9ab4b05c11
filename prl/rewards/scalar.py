"""Scalar reward of a Bradley-Terry model, without an anchor: the reward of scalar PPO, the baseline."""

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
from prl.rewards.folder import JUDGE_FILE, head_names_of, head_weights_of, judge_folder, read_judge_file
from prl.rewards.per_response import PerResponseReward
from prl.types import Conversation


def head_rewards(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the numbers of H heads for each row: [N, S] -> [N, H] float32.

    The reward is read at the last token that is not the padding id, as by transformers' own class. Where padding and
    end of sequence share an id, that is the token before the end.
    """
    return model(**model_inputs(input_ids, attention_mask)).logits.float()


def weighted_reward(rewards: Tensor, head_weights: Sequence[float] = (1.0,)) -> Tensor:
    """Add up what the heads say, each with its weight, as r(x, y): [N, H] -> [N]."""
    return (rewards * rewards.new_tensor(head_weights)).sum(-1)


class ScalarReward(PerResponseReward):
    """Reward r(x, y) of a Bradley-Terry model. Anchors, where rows have any, serve the logged win rate only.

    `BradleyTerryJudge` instead rewards a response by its comparison with the anchor.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    def __init__(self, path: str, dtype: str = "float32", batch_size: int = 64) -> None:
        super().__init__()
        self.path, self.dtype, self.batch_size = path, dtype, batch_size
        self.folder = path
        self.head_weights: tuple[float, ...] = (1.0,)
        self.head_names: tuple[str, ...] = ()
        self.model: Any = None

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

    def rewards(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """Compute r(x, y) of each response, by the weights of the heads: [N] float32."""
        return weighted_reward(self.values(prompts, responses), self.head_weights)

    def _shape(self) -> tuple[int, ...]:
        return (len(self.head_weights),)

    def _read(self, rows: list[dict[str, Any]], device: torch.device) -> Tensor:
        assert self.encoder is not None
        padding = int(self.encoder.tokenizer.pad_token_id)
        ids, mask = (each.to(device) for each in right_pad([row["ids"] for row in rows], padding))
        # In the type in which the model was measured, with the reward itself in float32.
        with in_own_type(device), float32_outputs(getattr(self.model, "score", None)):
            return head_rewards(self.model, ids, mask)
