"""Dense rewards from a policy trained on pairs, which guides another policy token by token."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prl.config import ModelSource
from prl.models.actor_critic import evaluate_frozen
from prl.models.limits import check_fits, check_same_ids
from prl.models.loading import freeze, load_causal_lm, on_meta_device
from prl.rewards.base import RewardSource
from prl.rewards.per_token import PerTokenSource
from prl.types import Rollout, Scores


def guidance(log_ratio: Tensor, scale: float, clip: float | None) -> Tensor:
    """Compute clip(scale * log_ratio, -clip, clip) of each token: [B, T] -> [B, T].

    Args:
        log_ratio: log-probability of each token under the guide less that under its reference.
        scale: beta_1; it is applied before the clip.
        clip: largest reward of a token, in absolute value; None for no limit.
    """
    rewards = scale * log_ratio
    return rewards if clip is None else rewards.clamp(-clip, clip)


class TokenGuide(PerTokenSource):
    """Reward each token by clip(scale * (log pi_guide - log pi_ref), -clip, clip), beside the reward of the response.

    Reinforced token optimisation ("DPO Meets PPO", 2404.18922). The guide is a policy that DPO trained on pairs, the
    reference that of its training: their log-ratio is the reward of a token that DPO has learnt. The run's KL and the
    reward of the response stay where they are, so that with k1 in the reward

        r_t = clip(scale * (log pi_guide - log pi_ref)) - kl.coef * (log pi - log pi_ref) + 1[t last] * reward.

    Formula, scale and clip are those of the authors' code, as is that the scale comes before the clip. There the
    reference is also that of the run's KL; here it is read on its own. Log-probabilities are those at a temperature of
    1, whatever the policy samples at. Shapers change the reward of the response alone. A scale of 0 reads neither
    model and gives the other source's rewards to the bit. A response for which a log-ratio is not finite has no reward.

    Both models read the policy's token ids, so all three need one tokenizer. They are whole on each process,
    `resources.shard_judges` or not. `rewards/token_guide/mean` is what a response's tokens get together.

    Args:
        reward: source of the reward of each response.
        guide: folder or hub id of the policy trained on pairs.
        reference: folder or hub id of the reference of its training.
        scale: beta_1, scale of the log-ratio.
        clip: largest reward of a token, in absolute value; no limit when null.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.

    Raises:
        ValueError: for a scale below 0, a clip that is not above 0, or a batch_size below 1.
    """

    def __init__(
        self,
        reward: RewardSource,
        guide: str,
        reference: str,
        scale: float = 0.05,
        clip: float | None = 0.05,
        dtype: str = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__(reward)
        if not 0 <= scale < math.inf:
            raise ValueError(f"TokenGuide.scale is {scale}; expected a finite number of at least 0")
        if clip is not None and not clip > 0:
            raise ValueError(f"TokenGuide.clip is {clip}; expected a number above 0, or null for no limit")
        if batch_size < 1:
            raise ValueError(f"TokenGuide.batch_size is {batch_size}; expected at least 1")
        self.paths, self.scale, self.clip = {"guide": guide, "reference": reference}, scale, clip
        self.dtype, self.batch_size = dtype, batch_size
        self.guide: Any = None
        self.reference: Any = None

    def model_sources(self) -> dict[str, ModelSource]:
        """Return the sources of guide and reference."""
        return {role: ModelSource(path=path, dtype=self.dtype) for role, path in self.paths.items()}  # type: ignore[arg-type]

    def attach_tokenizer(self, tokenizer: Any, length: int) -> None:
        """Keep the policy's tokenizer, and refuse models that would read its ids otherwise, or not so many of them."""
        super().attach_tokenizer(tokenizer, length)
        for role, source in self.model_sources().items():
            setting = "max_prompt_length plus sampling.max_new_tokens"
            check_fits(source, tokenizer, length, role=role, setting=setting)
            check_same_ids(source, tokenizer, setting=f"TokenGuide.{role}")

    def load(self) -> None:
        """Load the other source and both models; safe to call twice."""
        super().load()
        if self.guide is None:
            with on_meta_device(False):  # other judges' weights may come from the first process, in shards
                self.guide, self.reference = (freeze(load_causal_lm(each)) for each in self.model_sources().values())

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by the other source, and each of its tokens by the guide."""
        scores = self.reward.score(rollout)
        if self.scale == 0:
            return scores
        ratio = self._log_ratio(rollout)
        known = ratio.isfinite().all(1)
        dense = guidance(ratio, self.scale, self.clip).masked_fill(~known[:, None], 0)
        components = {**scores.components, "token_guide": dense.sum(1)}
        if scores.token_rewards is not None:
            dense = dense + scores.token_rewards.to(dense.device)
        rewards = scores.rewards.to(dense.device).masked_fill(~known, torch.nan)
        return replace(scores, rewards=rewards, token_rewards=dense, components=components)

    @torch.no_grad()
    def _log_ratio(self, rollout: Rollout) -> Tensor:
        """Compute how much more probable the guide finds each token than the reference: [B, T], 0 outside the mask."""
        found = torch.zeros(rollout.response_ids.shape, dtype=torch.float32, device=rollout.response_ids.device)
        for rows in torch.arange(len(rollout), device=found.device).split(self.batch_size):
            part = rollout.select(rows)
            said = [evaluate_frozen(model, part, temperature=1.0) for model in (self.guide, self.reference)]
            found[rows, : part.response_ids.shape[1]] = said[0] - said[1]
        return found
