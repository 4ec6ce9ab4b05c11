"""Weights of a sum of rewards, learnt from what the sum achieves on the true reward: BARFI (2310.19007)."""

import math
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor

from prl.distributed import gathered
from prl.rewards.shapers.base import RewardShaper
from prl.rewards.shapers.implicit_gradient import implicit_gradient
from prl.types import Rollout, Scores


class LearnedMix(RewardShaper):
    """Reward sum_k phi_k r_k whose weights raise the true reward of the policy that it trains: BARFI (2310.19007).

    The inner objective is what a policy maximises, sum_k phi_k E[r_k] - beta KL, and the outer one the true reward of
    its optimum, less a regulariser: J(phi) = E[r_true] - decay |phi|^2 / 2. Its gradient is the implicit one,
    `implicit_gradient`. Theta are the logits of the responses to each prompt, all alike before the step, which is what
    a policy can change that tells responses apart. So nothing of the model is differentiated: the optimum is
    softmax(sum_k phi_k r_k / beta), and with many terms of the series the gradient is Cov(r_true, r_k) / beta over the
    responses to a prompt under the optimum, averaged over the prompts whose true rewards differ. Without such a prompt
    nothing changes. A weight below 0 becomes 0. The batch at hand counts, before it is rewarded.

    A reward that goes against the true one loses its weight, one that is unrelated loses it by the decay, and one that
    goes along keeps some, which counts where the true reward says nothing: BARFI's use of an auxiliary reward.

    Both levels and the mixing are of the paper's abstract; the implicit gradient with a truncated series follows a
    summary. That theta are logits of the responses at hand, which makes the gradient free of the model, the KL of the
    inner objective, and weights of at least 0 are choices of this implementation. The paper learns the discount and
    rewards of states, too; these are not here.

    It reads the sources of a `WeightedReward`, whose own weights are for validations alone, and replaces the sum: put
    it in front of other shapers. `rewards/<name>/weight` in the logs.

    Args:
        weights: weight of each source at the beginning, by name.
        target: name of the source that is the true reward; it may be among the weights or not.
        learning_rate: step of the weights; 0 leaves them as they are.
        beta: of the KL, in units of the reward: how far one step of the inner objective goes.
        decay: of the weights.
        every: iterations from one step of the weights to the next, which averages over their prompts.
        terms: of the series that inverts minus the Hessian; 1 takes it for a multiple of the identity.

    Raises:
        ValueError: for no weight, a weight, rate or decay below 0 or not finite, a beta that is not above 0, or fewer
            than one iteration or term.
    """

    def __init__(
        self,
        weights: dict[str, float],
        target: str = "target",
        learning_rate: float = 0.1,
        beta: float = 1.0,
        decay: float = 0.1,
        every: int = 1,
        terms: int = 8,
    ) -> None:
        if not weights or not all(0 <= each < math.inf for each in weights.values()):
            raise ValueError(f"LearnedMix.weights is {weights}; expected a finite number of at least 0 for each source")
        for name, number in (("learning_rate", learning_rate), ("decay", decay)):
            if not 0 <= number < math.inf:
                raise ValueError(f"LearnedMix.{name} is {number}; expected a finite number of at least 0")
        if not 0 < beta < math.inf:
            raise ValueError(f"LearnedMix.beta is {beta}; expected a finite number above 0")
        for name, count in (("every", every), ("terms", terms)):
            if count < 1:
                raise ValueError(f"LearnedMix.{name} is {count}; expected at least 1")
        self.weights, self.target = dict(weights), target
        self.learning_rate, self.beta, self.decay, self.every, self.terms = learning_rate, beta, decay, every, terms
        self.sums, self.prompts, self.waited = dict.fromkeys(weights, 0.0), 0, 0

    def check(self, components: Collection[str] | None) -> None:
        """Refuse a reward that lacks one of the sources."""
        named = (*self.weights, self.target)
        if components is not None and (missing := sorted({*named} - {*components})):
            raise ValueError(
                f"shaping: LearnedMix reads the sources {missing}, and the reward has {sorted(components)}; name them "
                "as sources of a WeightedReward"
            )

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Learn from the rewards of all processes, then sum those of this one."""
        self.check(scores.components)
        self._observe([each for own in gathered(self._gradients(scores, rollout)) for each in own])
        parts = [self.weights[name] * each for name, each in scores.components.items() if name in self.weights]
        total = cast(Tensor, sum(parts))
        return scores.with_rewards(total.masked_fill(scores.failed, torch.nan))

    def numbers(self) -> dict[str, float]:
        """Return the weight of each source."""
        return {f"rewards/{name}/weight": weight for name, weight in self.weights.items()}

    def _observe(self, gradients: list[list[float]]) -> None:
        """Add the gradients of the prompts of all processes, and take a step when it is time.

        Sums are rounded once, so that they do not depend on how prompts lie over processes.
        """
        for place, name in enumerate(self.sums):
            self.sums[name] += math.fsum(each[place] for each in gradients)
        self.prompts += len(gradients)
        self.waited += 1
        if self.waited < self.every:
            return
        for name, weight in self.weights.items():
            if self.prompts:
                gradient = self.sums[name] / self.prompts - self.decay * weight
                self.weights[name] = max(0.0, weight + self.learning_rate * gradient)
        self.sums, self.prompts, self.waited = dict.fromkeys(self.weights, 0.0), 0, 0

    def _gradients(self, scores: Scores, rollout: Rollout) -> list[list[float]]:
        """Compute the gradient of each prompt of this process whose true rewards differ: a number for each weight."""
        rewards = torch.stack([scores.components[name] for name in self.weights], 1).double().cpu()
        true, group = scores.components[self.target].double().cpu(), rollout.group.cpu()
        known = rewards.isfinite().all(1) & true.isfinite() & ~scores.failed.cpu()
        prompts = [(group == number) & known for number in group.unique()]
        differ = [rows for rows in prompts if len(true[rows].unique()) > 1]
        return [self._of_prompt(rewards[rows], true[rows]).tolist() for rows in differ]

    def _of_prompt(self, rewards: Tensor, true: Tensor) -> Tensor:
        """Compute the gradient of one prompt: [G, K] rewards of the sources and [G] true ones -> [K]."""
        phi = torch.tensor(list(self.weights.values()), dtype=rewards.dtype)
        optimum = rewards @ phi / self.beta

        def inner(theta: Tensor, phi: Tensor) -> Tensor:
            logprobs = theta.log_softmax(0)
            return logprobs.exp() @ (rewards @ phi - self.beta * logprobs)

        def outer(theta: Tensor) -> Tensor:
            return theta.softmax(0) @ true

        # The largest eigenvalue of minus the Hessian, beta (diag p - p p^T), is at most beta times the largest p.
        step = 1 / (self.beta * float(optimum.softmax(0).max()))
        return implicit_gradient(inner, outer, optimum, phi, self.terms, step)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, and what was gathered since their last step."""
        return {
            "weights": dict(self.weights),
            "sums": dict(self.sums),
            "prompts": self.prompts,
            "waited": self.waited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with saved weights.

        Raises:
            ValueError: when they are those of other sources.
        """
        if state["weights"].keys() != self.weights.keys():
            raise ValueError(
                f"the checkpoint has weights of {sorted(state['weights'])}, LearnedMix.weights names "
                f"{sorted(self.weights)}; continue with the sources that wrote it"
            )
        vars(self).update({name: dict(each) if isinstance(each, dict) else each for name, each in state.items()})
