"""Base class of policies in training: sample, judge, validate, and write the files of validations."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any

import torch

from lightning_modules.base import TrainingModule
from lightning_modules.callbacks.run_checkpoint import RunCheckpoint
from lightning_modules.dashboards import draw_summary
from prl.checkpoints.position import is_dry_run
from prl.checkpoints.random_states import forked
from prl.config import Validation
from prl.distributed import gathered, rank, world_size
from prl.evaluation.policy.frontier import EXTRAPOLATED, beyond_equal_lengths, run_points
from prl.evaluation.policy.report import judged
from prl.evaluation.policy.validation_log import ComparisonRow, ValidationLog
from prl.evaluation.tables import markdown_table, spread, under_numbers
from prl.judge.template import render_conversation
from prl.models.offload import Offload
from prl.rl.judging import Judging
from prl.rl.phase_timer import PhaseTimer
from prl.rl.validation import PolicyValidation
from prl.types import PromptBatch, Rollout, Scores

log = logging.getLogger(__name__)


class PolicyTrainingModule(TrainingModule):
    """Policy in training, whose validations compare its responses with the anchors of the data.

    Args:
        settings: limits and patience of validations.
        offload: keeps frozen models off the device while they are idle.
    """

    judging: Judging
    microbatch_size: int
    """Rollouts in a forward pass."""

    def __init__(self, settings: Validation, offload: Offload) -> None:
        super().__init__()
        self.actors: Any = None
        """`Actors`, once the models are loaded."""
        self.offload, self.meter = offload, PhaseTimer()
        self.validation = PolicyValidation(settings, self.batches_done)
        self.run_state.register("validation", self.validation)

    def generate(self, batch: PromptBatch, *, training: bool = True) -> Rollout:
        """Sample one response to each prompt, to learn from or (`training` false) to validate and predict."""
        self.actors.forget()  # what an update that was left out would have read
        self.offload.to_cpu(self.judging.reward, self.judging.heldout, self.actors.reference)
        with self.phase("rollout"):
            return self.actors.sample(batch, version=self.batches_done(), training=training)

    def judge_responses(self, rollout: Rollout) -> Scores:
        """Reward each response, and in training its tokens.

        Raises ValueError when no response on any rank got a reward.
        """
        with self.phase("judge"):
            return self.judging.score(rollout, per_token=self.trainer.training)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase of a batch and show its name in the progress bar."""
        self.begin_phase(name)
        with self.meter.measure(name, self.device):
            yield

    @property
    def log_files(self) -> ValidationLog:
        """Files of validations: in the run folder when fitting, in a subfolder for `prl validate` and `prl test`."""
        verb = "" if self.trainer.state.fn in (None, "fit") else self.trainer.state.fn.value
        return ValidationLog(Path(self.trainer.default_root_dir, verb))

    def start_validations(self) -> None:
        """Delete the files of batches that will be trained again, and check which checkpoints are kept."""
        if self.trainer.is_global_zero and not is_dry_run(self.trainer):
            self.log_files.forget_after(self.validation.batch)
        self.trainer.strategy.barrier("validations of lost batches are gone")
        check_keep(self.trainer, self.validation.settings.patience)

    # ---- one validation

    def on_validation_epoch_start(self) -> None:
        """Reset the collected comparisons."""
        self.validation.start()

    @torch.no_grad()
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Sample with fixed draws, judge against the anchors, and measure the KL to the reference."""
        rollout, scores = self._sample(batch, batch_idx)
        if not self.judging.reward.compares:
            self.validation.add_components(scores)
            return
        if scores.verdict is None or scores.response_index is None:
            raise ValueError(
                f"{type(self.judging.reward).__name__} rewards responses without saying who beats the anchors, which "
                "validations need; let its score return prl.rewards.base.scores_from_values(...), or turn validations "
                "off (trainer.limit_val_batches: 0)"
            )
        verdicts = {"": scores.verdict}
        if self.judging.heldout is not None:
            with self.phase("heldout"):
                verdicts["heldout_"] = self.judging.compare_heldout(rollout)
        groups = list(torch.arange(len(rollout)).split(self.microbatch_size))
        policy, reference, _ = self.actors.score(rollout, groups)
        self.validation.add(rollout, verdicts, scores.response_index, (policy - reference).sum(1))

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Collect what validation collects."""
        self.validation_step(batch, batch_idx)

    @torch.no_grad()
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each prompt a sampled response, and its win probability against each anchor."""
        rollout, scores = self._sample(batch, batch_idx)
        batch = rollout.batch
        rows: list[dict[str, Any]] = [
            {"prompt": list(prompt), "response": response, "anchors": list(anchors), "win_prob": []}
            for prompt, response, anchors in zip(batch.prompts, rollout.texts, batch.anchors, strict=True)
        ]
        for row, probability in _win_probs(scores):
            rows[row]["win_prob"].append(None if isnan(probability) else probability)
        return rows

    def _sample(self, batch: PromptBatch, batch_idx: int) -> tuple[Rollout, Scores]:
        """Sample one response to each prompt with fixed draws, and attach the anchors of the data.

        A row without an anchor gets a sample of the reference, drawn with fixed draws too.
        """
        with forked(seed=batch_idx * world_size() + rank()):
            rollout = self.generate(batch, training=False)
            lacking = self.judging.reward.compares and not all(batch.anchors)
            if any(gathered(lacking)):  # on all ranks or none, because ranks sample together
                drawn = self.actors.reference_responses(batch)
                anchors = [own or (text,) for own, text in zip(batch.anchors, drawn, strict=True)]
                rollout = rollout.anchored(anchors)
        return rollout, self.judge_responses(rollout)

    def on_validation_epoch_end(self) -> None:
        """Log win rates with intervals, KL, the gap between judges and samples once, and write them to files."""
        rows, trainer = self.validation.gather(), self.trainer
        if trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf"):
            return  # a few batches are a check of the code, not a validation
        in_training = trainer.state.fn == "fit"
        has_heldout = self.judging.heldout is not None
        if not self.judging.reward.compares:
            if not trainer.sanity_checking:
                means = {f"val/{name}": value for name, value in self.validation.component_means().items()}
                self.log_dict(means, rank_zero_only=True)
            return
        numbers = self.validation.report(rows, has_heldout=has_heldout, in_training=in_training)
        if in_training:
            self.end_if_over()
        if not trainer.sanity_checking:
            self.log_dict({f"val/{name}": value for name, value in numbers.items()}, rank_zero_only=True)
        if trainer.is_global_zero and not is_dry_run(trainer):
            self.log_files.add(self.validation.batch, {**numbers, EXTRAPOLATED: beyond_equal_lengths(rows)}, rows)
            if self.tensorboard is not None and not trainer.sanity_checking:
                draw_summary(self.tensorboard, numbers, self.logged_step())
                self._draw(self.tensorboard, rows)

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end

    def end_if_over(self) -> None:
        """End the run when `patience` validations in a row, counted across resumes, were no better than the best."""
        if (reason := self.validation.patience.stop_reason()) is not None and not self.trainer.should_stop:
            self.trainer.should_stop = True
            if rank() == 0:
                log.warning("the run ends early: %s. `prl frontier` names the checkpoint to ship", reason)

    def _draw(self, tensorboard: Any, rows: list[ComparisonRow]) -> None:
        from prl.evaluation.policy.frontier_figure import draw_frontier  # imports matplotlib

        step = self.logged_step()
        tensorboard.add_text("samples/validation", sample_table(rows, self.validation.settings.samples), step)
        tensorboard.add_histogram("val/win_prob_histogram", torch.tensor([row["p_win"] for row in judged(rows)]), step)
        tensorboard.add_figure(
            "frontier/kl_winrate", draw_frontier({"this run": run_points(self.log_files.read())}), step
        )


def _win_probs(scores: Scores) -> Iterator[tuple[int, float]]:
    """Pair the index of the response of each comparison with its win probability."""
    if scores.verdict is not None and scores.response_index is not None:
        yield from zip(scores.response_index.tolist(), scores.verdict.win_prob.tolist(), strict=True)


def check_keep(trainer: Any, patience: int | None) -> None:
    """Warn when the best validation's checkpoint would be deleted before `patience` ends the run."""
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


def sample_table(rows: list[ComparisonRow], count: int) -> str:
    """Format some comparisons, from the policy's best to its worst, as a table for TensorBoard.

    A cell has the probability of a win, in both orders too, above the prompt; then come response and anchor.
    """
    names = {"p(win)": "p_win", "response first": "p_response_first", "anchor first": "p_anchor_first"}
    if rows and "heldout_p_win" in rows[0]:
        names["held-out judge"] = "heldout_p_win"
    lines = []
    for row in [rows[n] for n in spread([row["p_win"] for row in rows], count)]:
        numbers = {name: f"{row[key]:.3f}" for name, key in names.items()}  # nan where the held-out judge failed
        lines.append([under_numbers(render_conversation(row["prompt"]), numbers), row["response"], row["anchor"]])
    return markdown_table(["prompt", "response", "anchor"], lines)
