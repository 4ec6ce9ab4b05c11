"""Models with a linear head on the last token, and the reward of one that is Bradley-Terry, the baseline of PPO."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from prl.config import ModelSource
from prl.data.encoding import ConversationEncoder
from prl.data.tokens import EncodingCounts, right_pad
from prl.models.limits import check_fits
from prl.models.loading import freeze, load_scalar_classifier, load_tokenizer
from prl.models.policy import float32_outputs, in_own_type, model_inputs
from prl.rewards.folder import (
    JUDGE_FILE,
    head_names_of,
    head_weights_of,
    judge_folder,
    made_elsewhere,
    read_judge_file,
)
from prl.rewards.layout import tell_if_layout_matters
from prl.rewards.per_response import PerResponseReward
from prl.rewards.plain_model import check_weighted
from prl.types import Conversation

_KINDS = {
    "bradley_terry": ("Bradley-Terry", "ScalarReward or BradleyTerryJudge"),
    "general_preference": ("general preference", "GeneralPreferenceJudge"),
    "generative": ("generative", "GenerativeJudge"),
}
"""Kind of a folder -> its name, and who reads it."""


def head_rewards(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the numbers of H heads for each row: [N, S] -> [N, H] float32.

    The reward is read at the last token that is not the padding id, as by transformers' own class. Where padding and
    end of sequence share an id, that is the token before the end.
    """
    return model(**model_inputs(input_ids, attention_mask)).logits.float()


def end_states(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the last hidden state at the token that heads read: [N, S] -> [N, D]."""
    states = model(**model_inputs(input_ids, attention_mask), output_hidden_states=True).hidden_states[-1]
    is_text = input_ids != model.config.get_text_config().pad_token_id
    last = (is_text * torch.arange(input_ids.shape[1], device=input_ids.device)).argmax(-1)
    return states[torch.arange(len(last), device=last.device), last]


def weighted_reward(rewards: Tensor, head_weights: Sequence[float] = (1.0,)) -> Tensor:
    """Add up what the heads say, each with its weight, as r(x, y): [N, H] -> [N]."""
    return (rewards * rewards.new_tensor(head_weights)).sum(-1)


class ScalarModel(PerResponseReward):
    """Base of rewards and judges by a model with a linear head, which gives each text some numbers.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: texts per forward pass.
    """

    kind: ClassVar[str]
    """Kind of its folder."""

    def __init__(self, path: str, dtype: str = "float32", batch_size: int = 64) -> None:
        super().__init__()
        self.path, self.dtype, self.batch_size = path, dtype, batch_size
        self.folder = path
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
        if settings["kind"] != self.kind:
            found, reads = _KINDS.get(settings["kind"], (settings["kind"], "of its kind"))
            raise ValueError(
                f"{self.path} holds a {found} judge, not a {_KINDS[self.kind][0]} one; name the class {reads}, or give "
                "a folder of the other kind"
            )
        source = ModelSource(path=self.folder, dtype=self.dtype)  # type: ignore[arg-type]
        tokenizer = load_tokenizer(source)
        check_fits(source, tokenizer, settings["max_length"], role="judge", setting=f"max_length in its {JUDGE_FILE}")
        self.encoder = ConversationEncoder(tokenizer, settings["max_length"], "truncate")
        self._read_settings(settings)
        self.model = freeze(load_scalar_classifier(source, new_head=False, heads=self._shape()[0]))
        if made_elsewhere(self.folder, settings):
            tell_if_layout_matters(self.values, self.model, self.path, self.dtype)
            self.encoder.counts = EncodingCounts()  # the trial was no response

    @abstractmethod
    def _read_settings(self, settings: dict[str, Any]) -> None:
        """Take what the folder says of the numbers."""

    @abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """Return [H], how many numbers there are."""

    def _read(self, rows: list[dict[str, Any]], device: torch.device) -> Tensor:
        assert self.encoder is not None
        padding = int(self.encoder.tokenizer.pad_token_id)
        ids, mask = (each.to(device) for each in right_pad([row["ids"] for row in rows], padding))
        # In the type in which the model was measured, with the reward itself in float32.
        with in_own_type(device), float32_outputs(getattr(self.model, "score", None)):
            return head_rewards(self.model, ids, mask)


class ScalarReward(ScalarModel):
    """Reward r(x, y) of a Bradley-Terry model. Anchors, where rows have any, serve the logged win rate only.

    `BradleyTerryJudge` instead rewards a response by its comparison with the anchor.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    kind = "bradley_terry"
    weighs_heads = False
    """Whether settings weigh the heads, so that a folder need not."""

    def __init__(self, path: str, dtype: str = "float32", batch_size: int = 64) -> None:
        super().__init__(path, dtype, batch_size)
        self.head_weights: tuple[float, ...] = (1.0,)
        self.head_names: tuple[str, ...] = ()

    def rewards(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """Compute r(x, y) of each response, by the weights of the heads: [N] float32."""
        return weighted_reward(self.values(prompts, responses), self.head_weights)

    def _read_settings(self, settings: dict[str, Any]) -> None:
        if not self.weighs_heads:
            check_weighted(self.folder or self.path, settings)
        self.head_weights, self.head_names = head_weights_of(settings), head_names_of(settings)

    def _shape(self) -> tuple[int, ...]:
        return (len(self.head_weights),)
