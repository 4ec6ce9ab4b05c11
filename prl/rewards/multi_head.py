"""Reward of several regression heads, weighed the same for all prompts or by each prompt's own direction."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prl.rewards.base import scores_from_values
from prl.rewards.folder_checks import is_number
from prl.rewards.scalar import ScalarReward
from prl.types import Rollout, Scores


class MultiHead(ScalarReward):
    """Reward sum_k w_k r_k(x, y) of a model with a head for each attribute, as `MultiHeadRegression` trains it.

    With `column` the weights are those of the prompt, <v, r(x, y)> of directional preference alignment (2402.18571).
    A response to a prompt without them, or with weights of attributes that the model has not, has no reward.

    Args:
        path: folder written by training; its heads have names, or are called "0", "1" and so on.
        weights: weight of each head by name; a head without one does not count. As in the folder when null.
        column: column of the prompts with the weights by name in their place.
        normalize: divide by the sum of the absolute weights: a mean on the scale of the heads, however many there are.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.

    Raises:
        ValueError: for both kinds of weights, or weights that are all 0 or no numbers; when the model is read, for
            weights of heads that it has not.
    """

    component_names = None

    def __init__(
        self,
        path: str,
        weights: dict[str, float] | None = None,
        column: str | None = None,
        normalize: bool = False,
        dtype: str = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__(path, dtype, batch_size)
        if weights is not None and column is not None:
            raise ValueError("MultiHead.weights and column are both set; leave one of them out")
        if weights is not None and not (all(map(is_number, weights.values())) and any(weights.values())):
            raise ValueError(
                f"MultiHead.weights is {weights}; expected a finite number for each head, not all of them 0"
            )
        self.weights, self.column, self.normalize = weights, column, normalize
        self.weighs_heads = weights is not None or column is not None
        self._failure: str | None = None

    def load(self) -> None:
        """Load weights and tokenizer, and find the heads that are weighed; safe to call twice."""
        if self.model is not None:
            return
        super().load()
        self.head_names = self.head_names or tuple(map(str, range(len(self.head_weights))))
        if self.weights is not None:
            if unknown := sorted(self.weights.keys() - set(self.head_names)):
                raise ValueError(f"MultiHead.weights names {unknown[0]!r}, but {self._heads_here()}")
            self.head_weights = tuple(self.weights.get(name, 0.0) for name in self.head_names)

    def _heads_here(self) -> str:
        return f"{self.path} has the heads {', '.join(self.head_names)}"

    def failure(self) -> str | None:
        """Return what was wrong with the last direction that gave no reward."""
        return self._failure

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by the weighted heads, and keep what each of them says."""
        prompts, weights = rollout.batch.prompts, self._weights(rollout)
        said: list[Tensor] = []

        def values_of(rows: list[int], texts: list[str]) -> Tensor:
            heads = self.values([prompts[row] for row in rows], texts)
            said.append(heads)
            return (heads * weights[rows].to(heads)).sum(-1)

        scores = scores_from_values(rollout, values_of)  # which asks for the responses first
        return replace(scores, components=dict(zip(self.head_names, said[0].unbind(-1), strict=True)))

    def _weights(self, rollout: Rollout) -> Tensor:
        """Weights of the heads in each row: [B, H], NaN where there are none."""
        if self.column is None:
            weights = torch.tensor([self.head_weights] * len(rollout))
        else:
            extras = rollout.batch.extras or [{}] * len(rollout)
            weights = torch.tensor([self._direction(extra.get(self.column)) for extra in extras])
        weights = weights.reshape(len(rollout), len(self.head_names))
        return weights / weights.abs().sum(1, keepdim=True) if self.normalize else weights

    def _direction(self, found: Any) -> list[float]:
        ok = isinstance(found, Mapping) and found.keys() <= set(self.head_names) and all(map(is_number, found.values()))
        if ok and any(found.values()):
            return [float(found.get(name, 0.0)) for name in self.head_names]
        self._failure = (
            f"column {self.column!r} of a prompt is {found!r:.80}; expected weights by name: {self._heads_here()}"
        )
        return [float("nan")] * len(self.head_names)
