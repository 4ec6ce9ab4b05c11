"""Pairwise PPO once more, row by row and token by token in float64: what a run must log, and where it must end.

Written from docs/ppo.md and the papers, with loops instead of masks. Of prl it takes nothing but the draws: which
tokens were sampled, and which rows made which minibatch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev, variance
from typing import Any

import torch
from torch import Tensor

EPS = 1e-5
"""Of AdamW, on both sides: with 1e-8 a weight whose gradient is nothing but rounding moves as far as any other."""


@dataclass
class Row:
    """A response as a list of tokens, with what it is compared with."""

    prompt: list[int]
    response: list[int]
    finished: bool
    text: str
    anchors: Sequence[str]


@dataclass
class Settings:
    """Numbers of the configuration, by the names of docs/ppo.md."""

    learning_rate: float = 3e-3
    critic_learning_rate: float = 1e-2
    weight_decay: float = 0.1
    beta1: float = 0.8
    beta2: float = 0.9
    warmup: int = 1
    temperature: float = 0.8
    max_new_tokens: int = 6
    kl_coef: float = 0.1
    kl_target: float = 2.0
    kl_horizon: int = 100
    kl_in_loss: bool = False  # as k2; else in the reward, as k1
    missing_eos_value: float = 0.4
    overlong_penalty: float = 0.2
    overlong_buffer: int = 3
    gamma: float = 0.95
    gae_lambda: float = 0.9
    critic_lambda: float = 0.8
    clip_range: float = 0.1
    clip_range_high: float = 0.15
    value_clip_range: float = 0.05
    value_coef: float = 0.7
    entropy_coef: float = 0.02
    max_grad_norm: float = 0.5
    critic_warmup: int = 1
    by_sequence: bool = False


Rule = Callable[[str, str], float]
"""Margin of the response shown first over the one shown second; NaN where judging fails."""


class PPOByHand:
    """A run that learns as `PairwisePPOModule` should.

    Args:
        policy: float64; learns.
        value_head: float64; learns. Weight [1, D] and bias [1].
        backbone: float64, gives the critic's hidden states: of its own, or the policy.
        reference: float64.
        rule: the judge.
        settings: of the run.
    """

    def __init__(
        self, policy: Any, value_head: Any, backbone: Any, reference: Any, rule: Rule, settings: Settings
    ) -> None:
        self.policy, self.value_head, self.backbone, self.reference = policy, value_head, backbone, reference
        self.rule, self.settings, self.coef, self.iteration = rule, settings, settings.kl_coef, 0
        self.own_backbone = backbone is not policy
        critic = [*(backbone.parameters() if self.own_backbone else []), *value_head.parameters()]
        groups = []
        for parameters, rate in ((policy.parameters(), 0.0), (critic, 1.0)):
            trained = [p for p in parameters if p.requires_grad]
            for matrices in (True, False):
                decay = settings.weight_decay if matrices else 0.0
                some = [p for p in trained if (p.dim() >= 2) == matrices]
                groups.append({"params": some, "weight_decay": decay, "critic": rate})
        self.trained = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(settings.beta1, settings.beta2), eps=EPS)

    # ---- models

    def logits(self, model: Any, row: Row) -> Tensor:
        """[T, V] before each token of the response, divided by the temperature."""
        ids = torch.tensor([row.prompt + row.response])
        before = slice(len(row.prompt) - 1, len(row.prompt) + len(row.response) - 1)
        return model(ids).logits[0, before] / self.settings.temperature

    def logprobs(self, model: Any, row: Row) -> Tensor:
        """[T] of the tokens of the response."""
        return self.logits(model, row).log_softmax(-1)[range(len(row.response)), row.response]

    def values(self, row: Row) -> Tensor:
        """[T] of the states before each token."""
        ids = torch.tensor([row.prompt + row.response])
        hidden = self.backbone(ids, output_hidden_states=True).hidden_states[-1]
        if self.is_warming_up and not self.own_backbone:
            hidden = hidden.detach()
        read = self.value_head(hidden[0])
        return read.squeeze(-1)[len(row.prompt) - 1 : -1]

    @property
    def is_warming_up(self) -> bool:
        return self.iteration < self.settings.critic_warmup

    # ---- rewards

    def judge(self, row: Row) -> list[tuple[float, float]]:
        """Margins with the response first, and with the anchor first, against each anchor that could be judged."""
        text = row.text.strip()
        both = [(self.rule(text, anchor), self.rule(anchor, text)) for anchor in row.anchors]
        return [pair for pair in both if not math.isnan(sum(pair))]

    def score(self, row: Row) -> float | None:
        """Mean win probability, less what a response loses that does not end or is nearly too long."""
        margins = self.judge(row)
        if not margins:
            return None
        settings, length = self.settings, len(row.response)
        probability = fmean(1 / (1 + math.exp(-(ab - ba) / 2)) for ab, ba in margins)
        over = length - (settings.max_new_tokens - settings.overlong_buffer)
        penalty = settings.overlong_penalty * min(max(over / settings.overlong_buffer, 0.0), 1.0)
        return probability - (0.0 if row.finished else settings.missing_eos_value) - penalty

    def advantages(self, score: float, kl: list[float], values: list[float]) -> tuple[list[float], list[float]]:
        """Advantages before whitening, and returns, from the last token to the first."""
        settings, last = self.settings, len(values) - 1
        found, returns = [0.0] * len(values), [0.0] * len(values)
        of_policy = of_critic = 0.0
        for t in range(last, -1, -1):
            reward = (0.0 if settings.kl_in_loss else -self.coef * kl[t]) + (score if t == last else 0.0)
            following = values[t + 1] if t < last else 0.0
            delta = reward + settings.gamma * following - values[t]
            of_policy = delta + settings.gamma * settings.gae_lambda * of_policy
            of_critic = delta + settings.gamma * settings.critic_lambda * of_critic
            found[t], returns[t] = of_policy, values[t] + of_critic
        return found, returns

    # ---- an iteration

    def iterate(self, rows: list[Row], minibatches: list[list[int]]) -> dict[str, float]:
        """Learn from one rollout; the numbers that the run must have logged."""
        scores = [self.score(row) for row in rows]
        kept = [n for n, score in enumerate(scores) if score is not None]
        with torch.no_grad():
            old = {n: self.logprobs(self.policy, rows[n]) for n in kept}
            ref = {n: self.logprobs(self.reference, rows[n]) for n in kept}
            values = {n: self.values(rows[n]) for n in kept}
        advantages, returns = {}, {}
        for n in kept:
            kl = (old[n] - ref[n]).tolist()
            found = self.advantages(scores[n], kl, values[n].tolist())  # type: ignore[arg-type]
            advantages[n], returns[n] = (torch.tensor(each, dtype=torch.float64) for each in found)
        numbers = self.numbers_of(rows, scores, old, ref, values, returns)
        every = torch.cat([advantages[n] for n in kept])
        scale = math.sqrt(variance(every.tolist()) + 1e-8)
        advantages = {n: (advantages[n] - every.mean()) / scale for n in kept}
        history = [
            self.step(rows, [n for n in group if n in kept], old, ref, values, advantages, returns)
            for group in minibatches
        ]
        for name in history[0]:
            column = [step[name] for step in history]
            numbers[name] = max(column) if name.endswith("max") else fmean(column)
        numbers["policy/num_steps"] = len(history)
        if "policy/ratio_mean" in history[0]:
            numbers["policy/first_ratio"] = history[0]["policy/ratio_mean"]
        self.adapt(numbers["kl/k1"], len(kept))
        self.iteration += 1
        return numbers

    def adapt(self, kl: float, num_sequences: int) -> None:
        """Ziegler et al. 2019, 2.2; not while the policy stands still."""
        if not self.is_warming_up:
            error = min(max(kl / self.settings.kl_target - 1, -0.2), 0.2)
            self.coef *= 1 + error * num_sequences / self.settings.kl_horizon

    def rates(self) -> tuple[float, float]:
        """Learning rates of policy and critic: the policy's rises over its warm-up, which follows the critic's."""
        alone = max(self.iteration - self.settings.critic_warmup, 0)
        rising = min((alone + 1) / (self.settings.warmup + 1), 1.0)
        return self.settings.learning_rate * rising, self.settings.critic_learning_rate

    def step(
        self,
        rows: list[Row],
        group: list[int],
        old: dict[int, Tensor],
        ref: dict[int, Tensor],
        values: dict[int, Tensor],
        advantages: dict[int, Tensor],
        returns: dict[int, Tensor],
    ) -> dict[str, float]:
        """One optimizer step over a minibatch."""
        settings, totals = self.settings, dict.fromkeys(STEP_NUMBERS, 0.0)
        total_tokens = sum(len(rows[n].response) for n in group)
        loss, largest = torch.zeros((), dtype=torch.float64), 1.0
        for n in group:
            length = len(rows[n].response)
            weight = 1 / (length * len(group)) if settings.by_sequence else 1 / total_tokens
            new_values = self.values(rows[n])
            clipped = values[n] + (new_values - values[n]).clamp(-settings.value_clip_range, settings.value_clip_range)
            errors = torch.maximum((new_values - returns[n]) ** 2, (clipped - returns[n]) ** 2) / 2
            loss = loss + weight * settings.value_coef * errors.sum()
            moved = (new_values - values[n]).abs() > settings.value_clip_range
            totals["value/loss"] += weight * float(errors.detach().sum())
            totals["value/clip_frac"] += weight * float(moved.sum())
            if self.is_warming_up:
                continue
            logits = self.logits(self.policy, rows[n]).log_softmax(-1)
            new = logits[range(length), rows[n].response]
            ratio = (new - old[n]).exp()
            inside = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range_high)
            surrogate = -torch.minimum(ratio * advantages[n], inside * advantages[n])
            entropy = -(logits.exp() * logits).sum(-1)
            loss = loss + weight * (surrogate.sum() - settings.entropy_coef * entropy.sum())
            if settings.kl_in_loss:
                loss = loss + weight * self.coef * ((new - ref[n]) ** 2 / 2).sum()
            below = (ratio < 1 - settings.clip_range) & (advantages[n] < 0)
            above = (ratio > 1 + settings.clip_range_high) & (advantages[n] > 0)
            per_token = {
                "policy/loss": surrogate,
                "policy/approx_kl": ratio - 1 - ratio.log(),
                "policy/clip_frac_low": below,
                "policy/clip_frac_high": above,
                "policy/ratio_mean": ratio,
                "policy/entropy": entropy,
            }
            for name, each in per_token.items():
                totals[name] += weight * float(each.detach().sum())
            largest = max(largest, float(ratio.max()))
        if self.is_warming_up:
            totals = {name: value for name, value in totals.items() if name.startswith("value/")}
        else:
            totals["policy/ratio_max"] = largest
        self.optimizer.zero_grad()
        loss.backward()
        totals["policy/grad_norm"] = self.learn()
        return totals

    def learn(self) -> float:
        """Clip, step, and tell the norm before the clip."""
        gradients = [p.grad for p in self.trained if p.grad is not None]
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        for gradient in gradients:
            gradient.mul_(min(1.0, self.settings.max_grad_norm / (norm + 1e-6)))
        policy, critic = self.rates()
        for group in self.optimizer.param_groups:
            group["lr"] = critic if group["critic"] else policy
        self.optimizer.step()
        return norm

    # ---- what is logged beside the update

    def numbers_of(
        self,
        rows: list[Row],
        scores: list[float | None],
        old: dict[int, Tensor],
        ref: dict[int, Tensor],
        values: dict[int, Tensor],
        returns: dict[int, Tensor],
    ) -> dict[str, float]:
        """docs/metrics.md, tag by tag; rows without a reward are in no mean of what was learnt from."""
        rewarded = [score for score in scores if score is not None]
        k1 = [float((old[n] - ref[n]).sum()) for n in old]
        k3 = [float(((ref[n] - old[n]).exp() - 1 - (ref[n] - old[n])).sum()) for n in old]
        every = {name: torch.cat(list(each.values())) for name, each in (("old", old), ("v", values), ("r", returns))}
        left = every["r"] - every["v"]
        margins = [pair for row in rows for pair in self.judge(row)]
        logits = [(ab - ba) / 2 for ab, ba in margins]
        probabilities = [1 / (1 + math.exp(-logit)) for logit in logits]
        first = [(1 / (1 + math.exp(-ab)), 1 / (1 + math.exp(-ba))) for ab, ba in margins]
        lengths = [len(row.response) for row in rows]
        return {
            "reward/score": fmean(rewarded),
            "reward/score_std": pstdev(rewarded),
            "reward/failed_frac": 1 - len(rewarded) / len(rows),
            "reward/win_prob": fmean(probabilities),
            "reward/win_rate": fmean([(logit > 0) + (logit == 0) / 2 for logit in logits]),
            "reward/tie_rate": fmean([logit == 0 for logit in logits]),
            "reward/saturated_frac": fmean([not 0.1 <= p <= 0.9 for p in probabilities]),
            "reward/logodds_mean": fmean(logits),
            "reward/logodds_std": pstdev(logits),
            "reward/order_gap": fmean([abs(ab + ba - 1) for ab, ba in first]),
            "reward/flip_rate": fmean([ab * ba > 0 and ab != ba for ab, ba in margins]),
            "kl/k1": fmean(k1),
            "kl/k3": fmean(k3),
            "kl/k1_stderr": pstdev(k1) / math.sqrt(len(k1)),
            "kl/coef": self.coef,
            "policy/entropy_sampled": -float(every["old"].mean()),
            "value/mean": float(every["v"].mean()),
            "value/return_mean": float(every["r"].mean()),
            "value/explained_var": 1 - variance(left.tolist()) / variance(every["r"].tolist()),
            "completions/mean_length": fmean(lengths),
            "completions/min_length": min(lengths),
            "completions/max_length": max(lengths),
            "completions/clipped_ratio": fmean([not row.finished for row in rows]),
            "completions/empty_ratio": fmean([not row.text.strip() for row in rows]),
            "progress/episodes": (self.iteration + 1) * len(rows),
        }


STEP_NUMBERS = (
    *("value/loss", "value/clip_frac", "policy/loss", "policy/approx_kl", "policy/clip_frac_low"),
    *("policy/clip_frac_high", "policy/ratio_mean", "policy/entropy"),
)
