"""Everything pairwise PPO says about an iteration, in one place: names and formulas are in docs/metrics.md."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prl.checkpoints.event_log import Journal
from prl.checkpoints.position import is_dry_run
from prl.config import KLEstimator
from prl.distributed import global_max, global_sum, world_size
from prl.kl import token_kl
from prl.masking import masked_mean
from prl.rl.health import SATURATED
from prl.types import Experience, Rollout, Scores, Verdict

if TYPE_CHECKING:
    from lightning_modules.pairwise_ppo import PairwisePPOModule


def mean_over_ranks(values: Tensor) -> float:
    """Mean of one number per row over the rows of all ranks."""
    total = global_sum(values.float().sum())
    count = global_sum(torch.tensor(float(values.numel()), device=values.device))
    return float(total / count.clamp(min=1))


def spread_over_ranks(values: Tensor) -> float:
    """Standard deviation (population) of one number per row over the rows of all ranks."""
    mean = mean_over_ranks(values)
    return mean_over_ranks((values.float() - mean).square()) ** 0.5


def win_score(verdict: Verdict) -> Tensor:
    """1 where the response wins, 0 where the anchor does, 1/2 for a tie, NaN where judging failed: [N]."""
    won = (verdict.win_logit.sign() + 1) / 2
    return won.masked_fill(~verdict.judged, torch.nan)  # the sign of NaN is 0, which would be a tie


def _per_response(experience: Experience, estimator: KLEstimator) -> Tensor:
    """An estimate of KL(policy || reference) summed over each response that counts."""
    kl = token_kl(experience.old_logprobs, experience.ref_logprobs, estimator)
    return kl.masked_fill(~experience.rollout.response_mask, 0).sum(1)[experience.counted]


class PPOReport:
    """Turns an iteration into logged numbers and histograms."""

    def __init__(self, module: "PairwisePPOModule") -> None:
        self.module = module

    @property
    def anchor_journal(self) -> Journal | None:
        """Where what happens to anchors is kept; None on all ranks but the first, and in a dry run."""
        trainer = self.module.trainer
        kept = trainer.is_global_zero and not is_dry_run(trainer)
        return Journal(Path(trainer.default_root_dir, "anchors.jsonl")) if kept else None

    def start_fit(self) -> None:
        """Forget events of batches that are trained again."""
        if journal := self.anchor_journal:
            journal.begin(self.module.validation.batch)

    @staticmethod
    def sequence_kl(experience: Experience) -> float:
        """Mean over the responses that count of the summed k1 estimate of KL(policy || reference), nats."""
        return mean_over_ranks(_per_response(experience, "k1"))

    def training(
        self,
        scores: Scores,
        responses: list[str],
        rollout: Rollout,
        experience: Experience,
        stats: dict[str, float],
    ) -> None:
        """Log one iteration."""
        module, mask = self.module, experience.rollout.response_mask
        lengths, num_rows = rollout.response_mask.sum(1).float(), len(mask) * world_size()
        rewarded, num_counted = ~scores.failed, int(global_sum(experience.counted.sum()))
        numbers = {
            "reward/score": mean_over_ranks(experience.scores[rewarded]),
            "reward/failed_frac": mean_over_ranks(scores.failed),
            "kl/k1": self.sequence_kl(experience),
            "kl/k3": mean_over_ranks(_per_response(experience, "k3")),
            "kl/coef": module.kl.coef,
            "policy/entropy_sampled": -float(masked_mean(experience.old_logprobs, mask)),
            "value/mean": float(masked_mean(experience.values, mask)),
            "value/return_mean": float(masked_mean(experience.returns, mask)),
            "completions/mean_length": mean_over_ranks(lengths),
            "completions/min_length": -float(global_max(-lengths.min())),
            "completions/max_length": float(global_max(lengths.max())),
            "completions/clipped_ratio": mean_over_ranks(~rollout.finished),
            "completions/empty_ratio": mean_over_ranks(torch.tensor([not text.strip() for text in responses])),
            "reward/judge_cut_rate": module.judge.cut_share(),
            "perf/judge_saved_tokens": module.judge.saved_share(),
            "progress/episodes": float((module.batches_done() + 1) * num_rows),
        }
        if num_counted > 1:  # one response has no spread, which health must not take for equal ones
            numbers["reward/score_std"] = spread_over_ranks(experience.scores[rewarded])
            numbers["kl/k1_stderr"] = spread_over_ranks(_per_response(experience, "k1")) / num_counted**0.5
        names = {"value_loss": "value/loss", "value_clip_frac": "value/clip_frac", "policy_loss": "policy/loss"}
        # What an anchor source says has its group already.
        numbers |= {names.get(name, name if "/" in name else f"policy/{name}"): v for name, v in stats.items()}
        numbers |= self._sources(scores) | self._costs(float(rollout.response_mask.sum()))
        numbers |= module.health.watch(numbers)
        numbers = {"reward/score_std": 0.0, "kl/k1_stderr": 0.0, **numbers}
        module.log_dict(numbers, rank_zero_only=True, batch_size=num_rows)
        reward = "reward/win_prob" if scores.verdict is not None else "reward/score"
        shown = {"win": numbers[reward], "kl": numbers["kl/k1"], "tok/s": numbers["perf/tok_s"]}
        module.log_dict(shown, prog_bar=True, logger=False, rank_zero_only=True, batch_size=num_rows)
        if journal := self.anchor_journal:
            journal.append(module.batches_done() + 1, module.anchors.events())
        if self.module.board is not None:
            step = module.logged_step()
            if scores.verdict is not None:
                judged = scores.verdict.select(scores.verdict.judged)
                self.module.board.add_histogram("reward/win_prob_histogram", judged.win_prob.float().cpu(), step)
            self.module.board.add_histogram(
                "policy/advantage_histogram", experience.advantages[mask].float().cpu(), step
            )

    @staticmethod
    def _sources(scores: Scores) -> dict[str, float]:
        """What comparisons showed, where there were any, and each part of a mix."""
        numbers = {}
        if scores.verdict is not None:
            verdict = scores.verdict.select(scores.verdict.judged)
            numbers = {
                "reward/win_prob": mean_over_ranks(verdict.win_prob),
                "reward/win_rate": mean_over_ranks(win_score(verdict)),
                "reward/tie_rate": mean_over_ranks(verdict.win_logit == 0),
                "reward/saturated_frac": mean_over_ranks((verdict.win_prob - 0.5).abs() > SATURATED[1] - 0.5),
                "reward/logodds_mean": mean_over_ranks(verdict.win_logit),
                "reward/logodds_std": spread_over_ranks(verdict.win_logit),
                "reward/order_gap": mean_over_ranks(verdict.order_gap),
                "reward/flip_rate": mean_over_ranks(verdict.flipped),
            }
        for name, values in scores.parts.items():
            known = values[~values.isnan()]
            numbers[f"rewards/{name}/mean"] = mean_over_ranks(known)
            numbers[f"rewards/{name}/std"] = spread_over_ranks(known)
        return numbers

    def _costs(self, tokens: float) -> dict[str, float]:
        seconds, peaks = self.module.meter.seconds, self.module.meter.peak_gib
        costs = {f"time/{name}_s": value for name, value in seconds.items()}
        costs |= {f"mem/peak_gib/{name}": value for name, value in peaks.items()}
        costs["perf/tok_s"] = tokens * world_size() / max(sum(seconds.values()), 1e-9)
        return costs
