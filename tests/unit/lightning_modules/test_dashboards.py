from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from lightning_modules.dashboards import draw_iteration
from prl.types import Scores
from prl.verdict import Verdict
from tests.helpers.records import make_experience, ragged_mask


class Board(SummaryWriter):
    """TensorBoard that remembers of which figures it was given a histogram."""

    drawn: tuple[str, ...] = ()

    def add_histogram(self, tag, *values, **settings) -> None:  # type: ignore[no-untyped-def]
        super().add_histogram(tag, *values, **settings)
        self.drawn = (*self.drawn, tag)


def test_an_iteration_whose_responses_are_all_left_out_has_no_histogram_of_advantages(tmp_path: Path) -> None:
    board, margin = Board(str(tmp_path)), torch.tensor([1.0, -2.0])
    scores = Scores(torch.zeros(2), Verdict(margin, -margin), torch.arange(2))
    draw_iteration(board, scores, make_experience(ragged_mask([0, 0], 3)), 1)
    assert board.drawn == ("reward/win_prob_histogram",)
    failed = torch.full((2,), torch.nan)  # as on one of several processes
    draw_iteration(
        board, Scores(failed, Verdict(failed, failed), torch.arange(2)), make_experience(ragged_mask([2, 1])), 2
    )
    assert board.drawn[1:] == ("policy/advantage_histogram",)
    board.close()
