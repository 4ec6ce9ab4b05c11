"""Arena of a run: after each validation the policy's responses meet those of earlier validations, on one scale."""

import json
import logging
from collections.abc import Callable
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
from prl.judge.stored import about_judge
from prl.rewards.base import RewardSource, uncounted
from prl.system.outputs import save_picture, write_text
from prl.types import Conversation

log = logging.getLogger(__name__)

ARENA = "arena"
JUDGE = "judge.json"
"""Beside the comparisons: all that decides the margins of the judge that made them."""


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
        self._about: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuse a run without a judge or with another one, and drop comparisons of policies that are trained again.

        Raises:
            ValueError: when nothing in the run compares responses, or the judge does not say what decides its margins,
                or the arena has comparisons of another judge.
        """
        judge, folder = judge_of(pl_module), Path(trainer.default_root_dir, ARENA)
        if trainer.is_global_zero and not is_dry_run(trainer):
            self._about = json.loads(json.dumps(about_judge(judge)))
            forget_after(folder / COMPARISONS, pl_module.validation.batch)
            check_judge(folder, self._about)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Have the policy of this validation join, where the training validates."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or is_dry_run(trainer):
            return
        judge = judge_of(pl_module)
        # On all processes, whose parts of the judge may be needed.
        with pl_module.judging.at_work(judge), uncounted(judge):
            report = self._joined(trainer, pl_module, judge) if trainer.is_global_zero else None
        if report is not None:
            _keep(report, Path(trainer.default_root_dir, ARENA), pl_module)

    def _joined(self, trainer: Trainer, pl_module: Any, judge: PairwiseJudge) -> dict[str, Any] | None:
        folder = Path(trainer.default_root_dir)
        prompts, players = validated_responses(folder, pl_module.validation.batch, pl_module.judging.answer)
        if len(players) < 2:
            return None
        keep_lines(folder / ARENA / COMPARISONS, lambda row: {row["a"], row["b"]} <= players.keys())
        write_text(folder / ARENA / JUDGE, json.dumps(self._about, indent=2) + "\n")
        arena = Arena(
            prompts,
            players,
            judge.compare,
            judge=hash_of(self._about),
            folder=folder / ARENA,
            outcome=self.outcome,
            newest=True,
            quiet=True,
        )
        arena.play(self.comparisons)
        if not len(arena.games()):
            log.warning(
                "arena: every comparison failed (%s), so there is no scale yet", judge.failure() or "no reason is known"
            )
            return None
        distance, low, high = difference(scale_of(arena.games(), self.outcome), len(players) - 1, 0)
        above = {"difference": distance, "low": low, "high": high}
        ends = {name: value if isfinite(value) else None for name, value in above.items()}
        return {**arena.report(), "newest": arena.names[-1], "above_first": ends}


def judge_of(pl_module: Any) -> PairwiseJudge:
    """Return the held-out judge of a run, else the first judge of its reward; of one around another, the outer one.

    Raises:
        ValueError: when the run has no judge of pairs.
    """
    judging = getattr(pl_module, "judging", None)
    sources: list[RewardSource | None] = [] if judging is None else [judging.heldout, judging.reward]
    for source in filter(None, sources):
        # A module stands before those in it.
        for judge in source.modules():
            if isinstance(judge, PairwiseJudge):
                return judge
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
    keep_lines(file, lambda row: max(_batch(row["a"]), _batch(row["b"])) <= batch)


def keep_lines(file: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the comparisons that are not wanted."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # behind the last line end is what a kill cut off
    rows = [json.loads(line) for line in lines]
    kept = [row for row in rows if wanted(row)]
    if len(kept) == len(rows):
        return
    if kept != rows[: len(kept)]:  # what is left of a block would pass for one that a kill cut off
        kept = [{**row, "block": number, "of": 1} for number, row in enumerate(kept)]
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def check_judge(folder: Path, about: dict[str, Any]) -> None:
    """Refuse comparisons of another judge than the run has now.

    Raises:
        ValueError: naming what differs.
    """
    comparisons, file = folder / COMPARISONS, folder / JUDGE
    if not (comparisons.exists() and comparisons.stat().st_size and file.exists()):
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    if changed := [name for name in {**before, **about} if before.get(name) != about.get(name)]:
        raise ValueError(
            f"{folder} has comparisons of another judge (other {', '.join(changed)}), and one scale needs one judge; "
            "set the judge that the run had, or move that folder away to begin a new arena"
        )


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
