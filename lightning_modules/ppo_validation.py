"""Validation of pairwise PPO: win rates under the training judge and a held-out one, KL, samples, the frontier."""

import logging
from collections.abc import Iterable
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.callbacks.run_checkpoint import RunCheckpoint
from prl.checkpoints.position import is_dry_run
from prl.checkpoints.random_states import forked
from prl.config import Validation
from prl.distributed import gathered, rank, world_size
from prl.evaluation.bootstrap import Interval
from prl.evaluation.policy.frontier import draw_frontier, run_points
from prl.evaluation.policy.patience import Patience
from prl.evaluation.policy.report import Row, goodhart_gap, judge_difference, judged, policy_report, with_interval
from prl.evaluation.policy.validation_log import ValidationLog
from prl.evaluation.tables import markdown_table
from prl.judge.base import PairwiseJudge
from prl.judge.template import render_conversation
from prl.rewards.base import against_anchors
from prl.types import PromptBatch, Rollout, Scores, Verdict

if TYPE_CHECKING:
    from lightning_modules.pairwise_ppo import PairwisePPOModule

log = logging.getLogger(__name__)


class PPOValidation:
    """Gathers the comparisons of a validation over all ranks, reports them once, and keeps them as files.

    Its state is the first validation's difference between the two judges, from which the gap is counted.
    """

    def __init__(self, module: "PairwisePPOModule", settings: Validation) -> None:
        self.module, self.settings = module, settings
        self.first: dict[str, float] | None = None
        self._rows: list[Row] = []
        self._responses = 0
        self._batch, self._alarmed = 0, False
        self.patience = Patience(settings.patience)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        done = self.module.batches_done()
        known = {"first": self.first, "alarmed": self._alarmed, "patience": self.patience.state_dict()}
        return {"batch": done, **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.first, self._batch, self._alarmed = state["first"], state["batch"], state["alarmed"]
        self.patience.load_state_dict(state["patience"])

    @property
    def batch(self) -> int:
        """Training batches behind the policy that is validated; `prl validate` has them from the checkpoint."""
        return max(self.module.batches_done(), self._batch)

    @property
    def log_files(self) -> ValidationLog:
        """The run folder when fitting; a folder of its own for `prl validate` and `prl test`."""
        trainer = self.module.trainer
        verb = "" if trainer.state.fn in (None, "fit") else trainer.state.fn.value
        return ValidationLog(Path(trainer.default_root_dir, verb))

    def start_fit(self) -> None:
        """Forget files of batches that are trained again."""
        files = self.log_files
        if self.module.trainer.is_global_zero and not is_dry_run(self.module.trainer):
            files.forget_after(self.batch)
        self.module.trainer.strategy.barrier("validations of lost batches are gone")
        self._check_keep()

    def _check_keep(self) -> None:
        """Warn when the best validation's checkpoint would be gone by the time that `patience` gives up."""
        trainer, patience = self.module.trainer, self.settings.patience
        every = trainer.val_check_interval if trainer.check_val_every_n_epoch is None else None
        own = [each for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoint)]
        if patience is None or not isinstance(every, int) or not own or not own[0].every_n_batches or rank() != 0:
            return
        needed = -(-patience * every // own[0].every_n_batches) + 1
        if own[0].keep < needed:
            log.warning(
                "validation.patience %d looks %d batches back, but checkpoint.keep %d with every_n_batches %d has no "
                "checkpoint of then; set checkpoint.keep to %d, or the best one is gone when the run ends",
                *(patience, patience * every, own[0].keep, own[0].every_n_batches, needed),
            )

    # ---- one validation

    def start(self) -> None:
        """Forget the last validation."""
        self._rows, self._responses = [], 0

    def step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Sample with the same draws every time, judge against the anchors, measure the KL to the reference."""
        module = self.module
        batch, rollout, responses, scores = self._sample(batch, batch_idx)
        assert scores.verdict is not None, "there are anchors, so there are comparisons"
        assert scores.row_of is not None
        verdicts = {"": scores.verdict}
        if module.heldout_judge is not None:
            verdicts["heldout_"] = self._compare_heldout(module.heldout_judge, batch, responses)
        groups = list(torch.arange(len(rollout)).split(module.ppo.microbatch_size))
        policy, reference, _ = module.policies.score(rollout, groups)
        kl = (policy - reference).sum(1)
        # Numbers of responses that no other rank gives: a response may have several rows, one for each anchor.
        numbers = [(self._responses + row) * world_size() + rank() for row in range(len(rollout))]
        self._responses += len(rollout)
        self._rows += _rows(numbers, batch, responses, verdicts, scores.row_of, rollout, kl)

    def predict(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """For each prompt: a sampled response, and its win probability against each anchor."""
        batch, _, responses, scores = self._sample(batch, batch_idx)
        rows: list[dict[str, Any]] = [
            {"prompt": list(prompt), "response": response, "anchors": list(anchors), "win_prob": []}
            for prompt, response, anchors in zip(batch.prompts, responses, batch.anchors, strict=True)
        ]
        if scores.verdict is not None and scores.row_of is not None:
            for row, probability in zip(scores.row_of.tolist(), scores.verdict.win_prob.tolist(), strict=True):
                rows[row]["win_prob"].append(None if isnan(probability) else probability)
        return rows

    def _sample(self, batch: PromptBatch, batch_idx: int) -> tuple[PromptBatch, Rollout, list[str], Scores]:
        """One response to each prompt, of the same draws every time, against the anchors of the data.

        A row without an anchor is compared with a sample of the reference, which is the same every time too.
        """
        module = self.module
        with forked(seed=batch_idx * world_size() + rank()):
            rollout, responses = module.generate(batch)
            if any(gathered(not all(batch.anchors))):  # on all ranks or none, since they sample together
                drawn = module.policies.reference_responses(batch)
                batch = batch.anchored([own or (text,) for own, text in zip(batch.anchors, drawn, strict=True)])
        return batch, rollout, responses, module.judge_responses(batch, responses)

    def _compare_heldout(self, judge: PairwiseJudge, batch: PromptBatch, responses: list[str]) -> Verdict:
        with self.module.phase("heldout"), self.module.judging(judge):
            return against_anchors(judge.compare, *self.module.policies.judged(batch, responses))[0]

    def finish(self) -> None:
        """Log the figures over the rows of all ranks; write files, table and frontier."""
        rows = sorted((row for rows in gathered(self._rows) for row in rows), key=lambda row: row["row"])
        trainer, self._rows = self.module.trainer, []
        if trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf"):
            return  # a few batches are a check of the code, not a validation
        numbers = policy_report(rows)
        if self.module.heldout_judge is not None:
            numbers |= self._gap(rows)
        self._wait(numbers)
        logged = {f"val/{name}": value for name, value in numbers.items()}
        if not trainer.sanity_checking:
            self.module.log_dict(logged, rank_zero_only=True)
        if trainer.is_global_zero and not is_dry_run(trainer):
            files = self.log_files
            files.add(self.batch, numbers, rows)
            if self.module.board is not None and not trainer.sanity_checking:
                self._draw(self.module.board, rows, files)

    def _wait(self, numbers: dict[str, float]) -> None:
        """Count validations without a higher lower bound, and end the run when there were enough.

        `prl validate` repeats a validation and does not count it.
        """
        training = self.module.trainer.state.fn == "fit"
        if training:
            self.patience.observe(self.batch, numbers)
        numbers["since_best"] = float(self.patience.waited)
        if training:
            self.end_if_over()

    def end_if_over(self) -> None:
        """End the run when it has waited long enough for a better validation, before or after it was resumed."""
        if (reason := self.patience.objection()) is not None and not self.module.trainer.should_stop:
            self.module.trainer.should_stop = True
            if rank() == 0:
                log.warning("the run ends early: %s. `prl frontier` names the checkpoint to ship", reason)

    def _gap(self, rows: list[Row]) -> dict[str, float]:
        now = judge_difference(rows)
        gap = None if self.first is None else goodhart_gap(self.first, now)
        if gap is None:
            if self.first is not None:
                log.warning("no prompt of this validation was in the first one, so the gap between judges starts anew")
            self.first, gap = now, Interval(0.0, 0.0, 0.0)
        limit = self.settings.gap_limit
        alarm = limit is not None and gap.low > limit
        if alarm and not self._alarmed and rank() == 0:
            log.warning(
                "over-optimisation: since the first validation the training judge's win rate rose by %.2f (%.2f to "
                "%.2f) more than the held-out judge's, above validation.gap_limit %s. The policy learns what only the "
                "training judge likes: stop and ship an earlier checkpoint (`prl frontier`), raise reward.kl_coef, or "
                "train the judge on samples of this policy",
                *(*gap, limit),
            )
        self._alarmed |= alarm
        return {**with_interval("goodhart_gap", gap), "goodhart_alarm": float(alarm)}

    def _draw(self, board: Any, rows: list[Row], files: ValidationLog) -> None:
        step = self.module.logged_step()
        board.add_text("samples/validation", sample_table(rows[: self.settings.samples]), step)
        board.add_histogram("val/win_prob_histogram", torch.tensor([row["p_win"] for row in judged(rows)]), step)
        board.add_figure("frontier/kl_winrate", draw_frontier({"this run": run_points(files.read())}), step)


def _rows(
    numbers: list[int],
    batch: PromptBatch,
    responses: list[str],
    verdicts: dict[str, Verdict],
    row_of: Tensor,
    rollout: Rollout,
    kl: Tensor,
) -> Iterable[Row]:
    anchors = [anchor for each in batch.anchors for anchor in each]
    lengths, truncated = rollout.response_mask.sum(1).tolist(), (~rollout.finished).tolist()
    columns: dict[str, list[float]] = {}
    for prefix, verdict in verdicts.items():
        columns[f"{prefix}margin"] = verdict.win_logit.tolist()
        columns[f"{prefix}p_win"] = verdict.win_prob.tolist()
        columns[f"{prefix}p_response_first"] = torch.sigmoid(verdict.margin_ab).tolist()
        columns[f"{prefix}p_anchor_first"] = (1 - torch.sigmoid(verdict.margin_ba)).tolist()
    for n, row in enumerate(row_of.tolist()):
        yield {
            "row": numbers[row],
            "prompt": batch.prompts[row],
            "response": responses[row],
            "anchor": anchors[n],
            **{name: values[n] for name, values in columns.items()},
            "length": lengths[row],
            "truncated": truncated[row],
            "kl": float(kl[row]),
        }


def sample_table(rows: list[Row]) -> str:
    """Prompt, response, anchor and the probabilities of both orders, as a table for TensorBoard."""
    names = {"p(win)": "p_win", "p, response first": "p_response_first", "p, anchor first": "p_anchor_first"}
    if rows and "heldout_p_win" in rows[0]:
        names["p(win), held-out judge"] = "heldout_p_win"
    lines = [
        [render_conversation(row["prompt"]), row["response"], row["anchor"], *(f"{row[k]:.3f}" for k in names.values())]
        for row in rows  # nan where judging failed
    ]
    return markdown_table(["prompt", "response", "anchor", *names], lines)
