"""A look ahead before each gradient: ascend an objective on unlabelled responses, and go back behind the gradient."""

import logging
from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from prl.data import AnchoredPrompt, DataSource, load_records
from prl.data.encoding import ConversationEncoder
from prl.data.rows.row_errors import RowError
from prl.data.tokens import TooLongError, right_pad
from prl.objectives.reward import RewardObjective
from prl.rewards.scalar import head_rewards, weighted_reward

log = logging.getLogger(__name__)

COLUMN = "responses"
"""Column with the responses to a prompt, as `prl pairs --lists` writes it."""

Prompts = list[list[list[int]]]
"""Of each prompt the token ids of its responses, the prompt in front."""


def read_unlabelled(source: DataSource, encoder: ConversationEncoder) -> tuple[Prompts, str | None]:
    """Read and encode prompts with two or more responses each, and hash them.

    A prompt whose responses are all equal has nothing to compare. Such prompts are left out, and the log counts them.

    Raises:
        DataError: for a row without responses.
        ValueError: for a response that does not fit, or no prompt with different ones.
    """
    found = load_records(source, AnchoredPrompt, check=_check)
    prompts: Prompts = []
    alike = 0
    for number, record in enumerate(found.records, start=1):
        if len(texts := dict.fromkeys(record.extra[COLUMN])) < 2:
            alike += 1
            continue
        try:
            rows = [encoder.encode_response(record.prompt, text) for text in texts]
        except TooLongError as error:
            raise ValueError(f"unlabelled: prompt {number} of {source.path}: {error}") from None
        kept = [row["ids"] for row in rows if row is not None]
        if len(kept) < 2:
            raise ValueError(
                f"unlabelled: prompt {number} of {source.path} has {len(kept)} responses of at most max_length "
                f"{encoder.max_length} tokens; raise max_length, or set on_too_long: truncate"
            )
        prompts.append(kept)
    if not prompts:
        raise ValueError(f"unlabelled: {source.path} has no prompt with two different responses")
    if alike:
        log.warning(
            "unlabelled: %s of %s prompts of %s are left out, because their responses are all equal",
            *(alike, len(found.records), source.path),
        )
    return prompts, found.report.sha256


def _check(record: AnchoredPrompt) -> None:
    texts = record.extra.get(COLUMN)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RowError(
            "no unlabelled responses",
            COLUMN,
            repr(texts)[:60],
            expected="a list of texts, of which a look ahead needs two different ones",
            fix="`prl pairs --rule BestOfN --lists` writes it",
        )


def check_look_ahead(trainer: Any, sharding: Any) -> None:
    """Refuse runs in which weights cannot be changed between two passes and put back.

    Raises:
        ValueError: naming the setting and the fix.
    """
    if sharding.cuts_weights or sharding.keeps_float32_copies:
        raise ValueError(
            "objective: a look ahead moves the weights before each gradient and puts them back, which "
            f"{type(trainer.strategy).__name__} does not allow; use trainer.strategy auto or ddp"
        )
    if trainer.precision == "16-mixed":
        raise ValueError(
            "objective: a look ahead takes a gradient whose loss is not scaled, and trainer.precision is 16-mixed, in "
            "which it may vanish; use bf16-mixed or 32-true"
        )


class LookAhead:
    """Moves the weights of a reward model along a gradient on unlabelled responses, and puts them back.

    Which prompts a step reads is a function of its number alone, so a resumed run reads the same, and all batches of an
    accumulated step look ahead alike, from the same weights. All processes read the same prompts, and move alike.

    Args:
        objective: says what is ascended, how far, and over how many prompts.
        prompts: of `read_unlabelled`.
        pad_id: of the tokenizer.
        head_weights: of the model's heads.
    """

    def __init__(
        self, objective: RewardObjective, prompts: Prompts, pad_id: int, head_weights: Sequence[float]
    ) -> None:
        self.objective, self.prompts, self.pad_id, self.head_weights = objective, prompts, pad_id, head_weights
        self._before: list[tuple[nn.Parameter, Tensor]] = []

    @property
    def is_ahead(self) -> bool:
        """Tell whether the weights stand where the look ahead has moved them."""
        return bool(self._before)

    def of_step(self, step: int) -> Prompts:
        """Choose the prompts of a step: the next ones of a pass over all, each pass in an order of its own."""
        count = len(self.prompts)
        places = range(step * self.objective.unlabelled_prompts, (step + 1) * self.objective.unlabelled_prompts)
        return [self.prompts[_order(place // count, count)[place % count]] for place in places]

    def ascend(self, model: Any, step: int) -> Tensor:
        """Move the trained weights of a model, and return the mean of what is ascended, before the move."""
        assert not self.is_ahead, "the weights are ahead already"
        chosen = self.of_step(step)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        ids, mask = right_pad([row for rows in chosen for row in rows], self.pad_id)
        device = trained[0].device
        rewards = weighted_reward(head_rewards(model, ids.to(device), mask.to(device)), self.head_weights)
        found = [self.objective.ascended(each) for each in rewards.split([len(rows) for rows in chosen])]
        mean = torch.stack(found).mean()
        self._move(trained, torch.autograd.grad(mean, trained, allow_unused=True))
        return mean.detach()

    @torch.no_grad()
    def _move(self, trained: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                self._before.append((parameter, parameter.detach().clone()))
                parameter.add_(gradient, alpha=self.objective.look_ahead)
        torch.clear_autocast_cache()  # which holds the weights of the first pass

    @torch.no_grad()
    def go_back(self) -> None:
        """Put the weights back, to the last bit; safe to call when they are there."""
        while self._before:
            parameter, value = self._before.pop()
            parameter.copy_(value)
        torch.clear_autocast_cache()


def _order(number: int, count: int) -> list[int]:
    """Shuffle the numbers of all prompts for one pass over them."""
    order = list(range(count))
    Random(f"unlabelled {number}").shuffle(order)
    return order
