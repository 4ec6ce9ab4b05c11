"""Arena of a run: after each validation the policy's responses meet those of earlier validations, on one scale."""

import json
import logging
from math import isfinite
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from prl.arena.playing import Arena
from prl.arena.record import COMPARISONS
from prl.arena.responses import hash_of
from prl.checkpoints.position import is_dry_run
from prl.evaluation.arena.games import Outcome
from prl.evaluation.arena.intervals import difference, scale_of
from prl.evaluation.policy.validation_log import SAMPLES, ValidationLog
from prl.judge.base import PairwiseJudge
from prl.system.outputs import save_picture, write_text
from prl.types import Conversation

log = logging.getLogger(__name__)

ARENA = "arena"


class RunArena(Callback):
    """Compares each validated policy with those of earlier validations, by the responses that validations keep.

    Nothing is sampled. The held-out judge compares where the run has one, else the first judge of the reward. A scale
    of all validated policies, of mean zero, with intervals over prompts is kept in RUN_DIR/arena and logged as
    `arena/...`. Off by default: a config adds it to `trainer.callbacks`.

    Args:
        comparisons: comparisons of each new policy with earlier ones, in both orders.
        outcome: what a comparison counts: the judge's win probability, or wins with ties as half.

    Raises:
        ValueError: for no comparisons.
    """

    def __init__(self, comparisons: int = 64, outcome: Outcome = "probability") -> None:
        if comparisons < 1:
            raise ValueError(f"RunArena.comparisons is {comparisons}; expected at least 1")
        self.comparisons, self.outcome = comparisons, outcome

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuse a run without a judge, and drop comparisons of policies that will be trained again.

        Raises:
            ValueError: when nothing in the run compares responses.
        """
        judge_of(pl_module)
        if trainer.is_global_zero and not is_dry_run(trainer):
            forget_after(Path(trainer.default_root_dir, ARENA, COMPARISONS), pl_module.validation.batch)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Have the policy of this validation join, where the training validates."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or is_dry_run(trainer):
            return
        judge = judge_of(pl_module)
        with pl_module.judging.at_work(judge):  # on all processes, whose parts of the judge may be needed
            report = self._joined(trainer, pl_module, judge) if trainer.is_global_zero else None
        if report is not None:
            _keep(report, Path(trainer.default_root_dir, ARENA), pl_module)

    def _joined(self, trainer: Trainer, pl_module: Any, judge: PairwiseJudge) -> dict[str, Any] | None:
        folder = Path(trainer.default_root_dir)
        prompts, players = validated_responses(folder, pl_module.validation.batch, pl_module.judging.answer)
        if len(players) < 2:
            return None
        arena = Arena(
            prompts,
            players,
            judge.compare,
            judge=hash_of([type(judge).__qualname__, judge.folder or ""]),
            folder=folder / ARENA,
            outcome=self.outcome,
            newest=True,
            quiet=True,
        )
        arena.play(self.comparisons)
        distance, low, high = difference(scale_of(arena.games(), self.outcome), len(players) - 1, 0)
        above = {"difference": distance, "low": low, "high": high}
        ends = {name: value if isfinite(value) else None for name, value in above.items()}
        return {**arena.report(), "newest": arena.names[-1], "above_first": ends}


def judge_of(pl_module: Any) -> PairwiseJudge:
    """Return the held-out judge of a run, else the first judge of its reward.

    Raises:
        ValueError: when there is none.
    """
    judging = getattr(pl_module, "judging", None)
    leaves = [] if judging is None else [judging.heldout, *judging.reward.leaves()]
    for source in leaves:
        if isinstance(source, PairwiseJudge):
            return source
    raise ValueError(
        "trainer.callbacks has a RunArena, and the run has no judge that compares responses; set "
        "model.init_args.heldout_judge, or leave the callback out"
    )


def validated_responses(folder: Path, batch: int, answer: Any) -> tuple[list[Conversation], dict[str, list[str]]]:
    """Read the responses of all validations up to a batch, by the prompts of the last one.

    Args:
        folder: of the run.
        batch: training batches of the last validation.
        answer: removes the thoughts from a response.

    Returns:
        P prompts, and name of each validation -> its P responses, the last one at the end.
    """
    numbers = sorted(int(path.stem.partition("=")[2]) for path in (folder / SAMPLES).glob("batch=*.jsonl"))
    rows = {number: _by_row(folder, number) for number in numbers if number <= batch}
    prompts = [prompt for prompt, _ in rows.get(batch, {}).values()]
    found = {}
    for number, own in rows.items():
        if [prompt for prompt, _ in own.values()] == prompts:
            found[f"batch={number}"] = [answer(response) for _, response in own.values()]
        else:
            log.warning("arena: the validation of batch %d had other prompts, so its policy is left out", number)
    return prompts, found


def _by_row(folder: Path, batch: int) -> dict[int, tuple[Conversation, str]]:
    """Read the responses of a validation; one that met several anchors has several lines."""
    return {row["row"]: (row["prompt"], row["response"]) for row in ValidationLog(folder).rows(batch)}


def forget_after(file: Path, batch: int) -> None:
    """Drop the comparisons of policies that a run resumed at this batch has not trained yet."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # behind the last line end is what a kill cut off
    rows = [(json.loads(line), line) for line in lines]
    kept = [line for row, line in rows if max(_batch(row["a"]), _batch(row["b"])) <= batch]
    write_text(file, "".join(f"{line}\n" for line in kept))


def _batch(name: str) -> int:
    return int(name.partition("=")[2])


def _keep(report: dict[str, Any], folder: Path, pl_module: Any) -> None:
    """Write the report and its picture, and log the scale at the step of the validation."""
    from prl.evaluation.arena.figure import draw_arena  # imports matplotlib

    write_text(folder / "arena.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    figure = draw_arena(report)
    save_picture(figure, folder / "arena.png")
    if (board := pl_module.tensorboard) is None:
        return
    step = pl_module.logged_step()
    for name, tag in (("difference", "above_first"), ("low", "above_first_lo"), ("high", "above_first_hi")):
        if (value := report["above_first"][name]) is not None:
            board.add_scalar(f"arena/{tag}", value, step)
    order = [player["name"] for player in report["players"]]
    board.add_scalar("arena/rank", order.index(report["newest"]) + 1, step)
    board.add_scalar("arena/circles", len(report["circles"]), step)
    board.add_figure("arena/scale", figure, step)
