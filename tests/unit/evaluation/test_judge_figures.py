"""What a judge's figures and tables show, read back from the drawn objects."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from prl.evaluation.figures import accuracy_by_length, judge_figures, margin_histogram, order_scatter
from prl.evaluation.judge.calibration import calibration_error, reliability_bins
from prl.evaluation.judge.report import JudgedPairs, slice_metrics
from prl.evaluation.tables import PairText, most_order_dependent, most_wrong, pair_table, shortened
from prl.verdict import Verdict


def judged(rows: list[tuple], sources: tuple = ()) -> JudgedPairs:
    """Rows of (z(a, b), z(b, a), target, prompt, length of a, length of b)."""
    ab, ba, targets, prompts, *lengths = zip(*rows, strict=True)
    columns = [torch.tensor(column, dtype=torch.float64) for column in (ab, ba, targets)]
    return JudgedPairs(Verdict(*columns[:2]), columns[2], prompts, torch.tensor(lengths).T, sources)


ROWS = [
    (2.0, -2.0, 1.0, "p", 10, 20),  # right, the shorter by half
    (1.0, 3.0, 1.0, "p", 20, 18),  # wrong: the first place wins both; matched, at the very edge
    (-1.0, 1.0, 0.0, "q", 30, 10),  # right, the label says b, the shorter by two thirds
    (4.0, -2.0, 0.8, "r", 10, 10),  # right, soft, equal lengths
    (3.0, -1.0, 0.5, "s", 50, 10),  # a tie
]


def legend(axes: Any) -> list[str]:
    return [each.get_text() for each in axes.get_legend().get_texts()]


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    torch.manual_seed(0)
    prob, targets = torch.rand(300), torch.cat([(torch.rand(200) < 0.7).float(), torch.rand(100)])
    counts, stated, happened = reliability_bins(prob, targets)
    some = counts > 0
    error = (counts * np.abs(stated - happened))[some].sum() / counts.sum()
    assert counts.sum() == 600
    assert error == pytest.approx(calibration_error(prob, targets), abs=1e-6)


def test_reliability_before_and_after_the_temperature() -> None:
    rows = [(4.0, -4.0, 1.0, n, 5, 5) for n in range(3)] + [(4.0, -4.0, 0.0, 3, 5, 5)]
    top = judge_figures(judged(rows))["calibration/reliability"].axes[0]
    # Right three times of four at 98 %; the temperature is 4 / log 3.
    assert legend(top)[1:] == ["as stated: calibration error 0.232", "temperature 3.64: calibration error 0.000"]
    lines = {line.get_label()[:9]: line.get_xydata() for line in top.lines}
    np.testing.assert_allclose(lines["as stated"], [[0.017986, 0.25], [0.982014, 0.75]], atol=1e-6)


def test_margins_by_side() -> None:
    axes = margin_histogram(judged(ROWS).better_first()).axes[0]
    assert legend(axes) == ["right: 3", "wrong: 1", "ties of the label: 1", "mean: 1.25"]
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert sum(bar.get_height() for bar in bars if bar.get_x() > -1e-9) == 3
    assert sum(bar.get_height() for bar in bars if bar.get_x() < -1e-9) == 1


def test_orders() -> None:
    axes = order_scatter(judged(ROWS).better_first()).axes[0]
    assert legend(axes)[1:] == ["right in both orders: 3", "flipped by the order: 1", "ties of the label: 1"]
    points = axes.collections[1].get_offsets()
    np.testing.assert_allclose(points, [[0.731059, 0.047426]], atol=1e-6)  # sigmoid of 1 and of -3


def test_accuracy_by_length_counts_every_decided_pair_once() -> None:
    axes = accuracy_by_length(judged(ROWS).better_first()).axes[0]
    counts = [int(label.get_text().rpartition("= ")[2]) for label in axes.get_xticklabels()]
    assert counts == [1, 1, 0, 2, 0, 0, 0]  # an edge belongs to the inner bin: half shorter, 10 % longer
    means = {int(line.get_xdata()[0]): line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o"}
    assert means == {0: 1.0, 1: 1.0, 3: 0.5}


@pytest.mark.parametrize(
    "rows",
    [[(1.0, -1.0, 0.5, "p", 3, 4)], [(0.0, 0.0, 1.0, "p", 0, 0)], [(60.0, 60.0, 0.9, "p", 0, 9)]],
    ids=["only ties", "no opinion on empty texts", "saturated"],
)
def test_odd_pairs_are_drawn_without_a_warning(rows: list[tuple], recwarn: pytest.WarningsRecorder) -> None:
    for figure in judge_figures(judged(rows)).values():
        FigureCanvasAgg(figure).draw()
    assert [str(each.message) for each in recwarn] == []


def test_slices_by_hand() -> None:
    found = slice_metrics(judged(ROWS, ("x", "y", "x", None, "y")))
    expected = {"accuracy_len_matched": 0.5, "accuracy_shorter_wins": 1.0, "longer_rate": 0.25}
    expected |= {"baseline_longer": 0.375, "accuracy_source_x": 1.0, "accuracy_source_y": 0.0}
    assert found == expected


def test_slices_without_a_pair_are_left_out() -> None:
    assert slice_metrics(judged([(1.0, -1.0, 0.5, "p", 3, 3)])) == {}


def test_which_pairs_a_table_shows() -> None:
    pairs = judged(ROWS)
    # Of the wrong ones only: the tie and the right ones do not count. Turned by the label, the third row is right.
    assert most_wrong(pairs.verdict, pairs.targets) == [1]
    assert most_order_dependent(pairs.verdict) == [1, 4, 3]


def test_a_table_of_pairs() -> None:
    pairs = judged(ROWS)
    texts = [PairText("a|b\n<c>", "`x`", ""), PairText("p", "y" * 400, "z")]
    table = pair_table([1, 4], texts, pairs.verdict, pairs.targets).splitlines()
    assert len(table) == 4
    numbers = "label 1, p(chosen) 0.269, chosen first 0.731, rejected first 0.047, characters 3 and 0"  # of -1, 1, -3
    assert table[2] == f"| {numbers}<br>a&#124;b<br>&lt;c> | &#96;x&#96; | (empty) |"
    assert table[3].startswith("| label 0.5, ")
    assert f"characters 400 and 1<br>p | {'y' * 300} … (+100 characters) | z |" in table[3]
    assert pair_table([], [], pairs.verdict, pairs.targets) == "No such pair."


def test_short_texts_stay_whole() -> None:
    assert shortened("y" * 300) == "y" * 300
