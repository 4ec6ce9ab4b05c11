"""Everything pairwise PPO says about itself, in one place: names, formulas and tables are in docs/metrics.md."""

from math import isnan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from prl.data.records import prompt_key
from prl.distributed import global_sum, world_size
from prl.evaluation.intervals import bootstrap_mean
from prl.evaluation.tables import markdown_table
from prl.judge.template import render_conversation
from prl.kl import token_kl
from prl.masking import masked_mean
from prl.rewards import mean_per_row
from prl.types import Experience, PromptBatch, Rollout, Scores, Verdict

if TYPE_CHECKING:
    from lightning_modules.pairwise_ppo import PairwisePPOModule


def mean_over_ranks(values: Tensor) -> float:
    """Mean of one number per row over the rows of all ranks."""
    total = global_sum(values.float().sum())
    count = global_sum(torch.tensor(float(values.numel()), device=values.device))
    return float(total / count.clamp(min=1))


def win_score(verdict: Verdict) -> Tensor:
    """1 where the response wins, 0 where the anchor does, 1/2 for a tie, NaN where judging failed: [N]."""
    won = (verdict.win_logit.sign() + 1) / 2
    return won.masked_fill(~verdict.judged, torch.nan)  # the sign of NaN is 0, which would be a tie


def prediction_rows(batch: PromptBatch, responses: list[str], scores: Scores) -> list[dict[str, Any]]:
    """Each prompt with its response and, for each anchor, the probability to beat it; null where judging failed."""
    rows: list[dict[str, Any]] = [
        {"prompt": list(prompt), "response": response, "anchors": list(anchors), "win_prob": []}
        for prompt, response, anchors in zip(batch.prompts, responses, batch.anchors, strict=True)
    ]
    if scores.verdict is not None and scores.row_of is not None:
        for row, probability in zip(scores.row_of.tolist(), scores.verdict.win_prob.tolist(), strict=True):
            rows[row]["win_prob"].append(None if isnan(probability) else probability)
    return rows


class PPOReport:
    """Turns an iteration and a validation into logged numbers, histograms and a table of samples."""

    num_samples = 8
    """Rows of the sample table."""

    def __init__(self, module: "PairwisePPOModule") -> None:
        self.module = module
        self._rows: list[Tensor] = []
        self._samples: list[list[str]] = []
        self._prompts: dict[str, int] = {}

    @staticmethod
    def sequence_kl(experience: Experience) -> float:
        """Mean over responses of the summed k1 estimate of KL(policy || reference), nats."""
        return mean_over_ranks((experience.old_logprobs - experience.ref_logprobs).sum(1))

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
        kl = experience.old_logprobs, experience.ref_logprobs
        numbers = {
            "reward/score": mean_over_ranks(experience.scores[~scores.failed]),
            "reward/failed_frac": mean_over_ranks(scores.failed),
            "kl/k1": self.sequence_kl(experience),
            "kl/k3": mean_over_ranks(token_kl(*kl, "k3").masked_fill(~mask, 0).sum(1)),
            "kl/coef": module.kl.coef,
            "value/mean": float(masked_mean(experience.values, mask)),
            "value/return_mean": float(masked_mean(experience.returns, mask)),
            "completions/mean_length": mean_over_ranks(lengths),
            "completions/max_length": float(lengths.max()),
            "completions/clipped_ratio": mean_over_ranks(~rollout.finished),
            "completions/empty_ratio": mean_over_ranks(torch.tensor([not text.strip() for text in responses])),
            "reward/judge_cut_rate": module.judge.cut_share(),
            "perf/judge_saved_tokens": module.judge.saved_share(),
            "progress/episodes": float((module.batches_done() + 1) * num_rows),
        }
        names = {"value_loss": "value/loss", "value_clip_frac": "value/clip_frac", "policy_loss": "policy/loss"}
        # What an anchor source says has its group already.
        numbers |= {names.get(name, name if "/" in name else f"policy/{name}"): v for name, v in stats.items()}
        numbers |= self._timings(float(rollout.response_mask.sum())) | self._sources(scores)
        module.log_dict(numbers, rank_zero_only=True, batch_size=num_rows)
        reward = "reward/win_prob" if scores.verdict is not None else "reward/score"
        shown = {"win": numbers[reward], "kl": numbers["kl/k1"], "tok/s": numbers["perf/tok_s"]}
        module.log_dict(shown, prog_bar=True, logger=False, rank_zero_only=True, batch_size=num_rows)
        if self.module.board is not None:
            step = module.logged_step()
            if scores.verdict is not None:
                judged = scores.verdict.select(scores.verdict.judged)
                self.module.board.add_histogram("reward/win_prob_histogram", judged.win_prob.float().cpu(), step)
            self.module.board.add_histogram(
                "policy/advantage_histogram", experience.advantages[mask].float().cpu(), step
            )

    def _timings(self, tokens: float) -> dict[str, float]:
        seconds = self.module.seconds
        times = {f"time/{name}_s": value for name, value in seconds.items()}
        times["perf/tok_s"] = tokens * world_size() / max(sum(seconds.values()), 1e-9)
        return times

    def _sources(self, scores: Scores) -> dict[str, float]:
        """What comparisons showed, where there were any, and each part of a mix."""
        numbers = {}
        if scores.verdict is not None:
            verdict = scores.verdict.select(scores.verdict.judged)
            numbers = {
                "reward/win_prob": mean_over_ranks(verdict.win_prob),
                "reward/win_rate": mean_over_ranks(win_score(verdict)),
                "reward/logodds_mean": mean_over_ranks(verdict.win_logit),
                "reward/logodds_std": float(verdict.win_logit.float().std(correction=0)),
                "reward/order_gap": mean_over_ranks(verdict.order_gap),
                "reward/flip_rate": mean_over_ranks(verdict.flipped),
            }
        for name, values in scores.parts.items():
            known = values[~values.isnan()].float()
            numbers[f"rewards/{name}/mean"] = mean_over_ranks(known)
            numbers[f"rewards/{name}/std"] = float(known.std(correction=0)) if len(known) else 0.0
        return numbers

    def start_validation(self) -> None:
        """Forget the last validation."""
        self._rows, self._samples, self._prompts = [], [], {}

    def validation(
        self,
        batch: PromptBatch,
        responses: list[str],
        scores: Scores,
        rollout: Rollout,
        kl: Tensor,
    ) -> None:
        """Remember one validation batch."""
        assert scores.verdict is not None, "validation places anchors"
        assert scores.row_of is not None
        verdict, row_of, device = scores.verdict, scores.row_of, kl.device
        measures = (win_score(verdict), verdict.win_prob, verdict.order_gap)
        judged = [mean_per_row(values, row_of, len(rollout)) for values in measures]
        groups = torch.tensor([int(prompt_key(prompt)[:12], 16) for prompt in batch.prompts], dtype=torch.float64)
        columns = [*judged, kl, rollout.response_mask.sum(1), ~rollout.finished, groups]
        self._rows.append(torch.stack([column.double().to(device) for column in columns], dim=1))
        for n in range(min(len(row_of), self.num_samples - len(self._samples))):
            row = int(row_of[n])
            nth = int((row_of[:n] == row).sum())
            self._samples.append(
                [
                    render_conversation(batch.prompts[row]),
                    responses[row],
                    batch.anchors[row][nth],
                    f"{float(verdict.win_prob[n]):.3f}",
                    f"{float(torch.sigmoid(verdict.margin_ab[n])):.3f}",
                    f"{float(1 - torch.sigmoid(verdict.margin_ba[n])):.3f}",
                ]
            )

    def finish_validation(self) -> None:
        """Log the win rate with its interval by prompt, KL, lengths and the sample table."""
        rows = torch.cat(self._rows)
        if world_size() > 1:
            rows = torch.cat(gather_all_tensors(rows))
        kl, length, missing = rows[:, 3:6].cpu().T.tolist()
        known = rows[~rows[:, 0].isnan()].cpu()
        if not len(known):
            raise ValueError(f"no validation response could be judged; last failure: {self.module.judge.failure()}")
        win, prob, gap, group = known[:, 0].tolist(), known[:, 1].tolist(), known[:, 2].tolist(), known[:, -1].tolist()
        rate, mean_prob = bootstrap_mean(win, group), bootstrap_mean(prob, group)
        numbers = {
            "val/win_rate": rate.mean,
            "val/win_rate_lo": rate.low,
            "val/win_rate_hi": rate.high,
            "val/win_prob": mean_prob.mean,
            "val/win_prob_lo": mean_prob.low,
            "val/win_prob_hi": mean_prob.high,
            "val/order_gap": sum(gap) / len(gap),
            "val/failed_frac": 1 - len(known) / len(rows),
            "val/kl": sum(kl) / len(kl),
            "val/length": sum(length) / len(length),
            "val/clipped_ratio": sum(missing) / len(missing),
        }
        self.module.log_dict(numbers, rank_zero_only=True)
        if self.module.board is not None and not self.module.trainer.sanity_checking:
            header = ["prompt", "response", "anchor", "p(win)", "p, response first", "p, anchor first"]
            step = self.module.logged_step()
            self.module.board.add_text("samples/validation", markdown_table(header, self._samples), step)
            self.module.board.add_histogram("val/win_prob_histogram", torch.tensor(prob), step)
