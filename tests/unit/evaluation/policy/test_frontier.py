"""KL against win rate: which point is chosen, where the knee is, and what the command writes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from prl.checkpoints.files import manifest_of, partial_path, publish
from prl.cli.commands.frontier import checkpoint_for, main
from prl.evaluation.policy.frontier import Point, best_checkpoint, common_measure, knee, run_points
from prl.evaluation.policy.frontier_figure import draw_frontier
from prl.evaluation.policy.validation_log import ValidationLog


def point(batch: int, kl_sqrt: float, rate: float, width: float = 0.1) -> Point:
    return Point(batch, kl_sqrt, rate, rate - width, rate + width)


def line(batch: int, rate: float, *names: str, kl: float | None = None) -> dict[str, float]:
    found = {"batch": batch, "kl_sqrt": batch / 10 if kl is None else kl}
    for name in names:
        found |= {name: rate, f"{name}_lo": rate - 0.1, f"{name}_hi": rate + 0.1}
    return found


BENT = [point(0, 0.0, 0.3), point(5, 1.0, 0.55), point(10, 2.0, 0.6), point(15, 3.0, 0.62), point(20, 4.0, 0.5)]


def test_the_highest_lower_bound_is_shipped_and_not_the_highest_rate() -> None:
    runs = {"a": [point(1, 1.0, 0.6, 0.05)], "b": [point(2, 0.5, 0.65, 0.2), point(3, 0.9, 0.58, 0.05)]}
    assert best_checkpoint(runs) == ("a", runs["a"][0])


def test_of_equal_bounds_the_smaller_kl_is_shipped() -> None:
    first, second = point(1, 2.0, 0.6), point(2, 1.0, 0.6)
    assert best_checkpoint({"a": [first], "b": [second]}) == ("b", second)


def test_nothing_is_shipped_from_the_first_alarm_on() -> None:
    """Even where the gap closed again, and the rate went on rising."""
    lines = [{**line(batch, batch / 10, "win_rate"), "goodhart_alarm": batch == 3} for batch in (1, 2, 3, 4)]
    points = run_points(lines)
    assert [each.alarmed for each in points] == [False, False, True, True]
    assert best_checkpoint({"a": points})[1].batch == 2
    assert best_checkpoint({"a": points, "b": [point(9, 1.0, 0.35)]}) == ("b", point(9, 1.0, 0.35))
    assert best_checkpoint({"a": points[2:]})[1].batch == 4  # an alarm at the first validation: there is nothing else


def test_the_knee_is_where_the_line_bends() -> None:
    assert knee(BENT).batch == 5
    assert knee(list(reversed(BENT))).batch == 5
    assert knee([*BENT, replace(BENT[1], kl_sqrt=BENT[1].kl_sqrt / 2, rate=0.99, extrapolated=True)]) == knee(BENT)


@pytest.mark.parametrize(
    "points",
    [[], BENT[:1], [point(0, 0.0, 0.5), point(1, 1.0, 0.4)], [point(n, n / 10, 0.3 + n / 100) for n in range(5)]],
    ids=["none", "one", "only_down", "straight"],
)
def test_a_line_that_does_not_bend_has_no_knee(points: list[Point]) -> None:
    assert knee(points) is None


def test_the_most_trustworthy_win_rate_that_all_have_is_shown() -> None:
    every = ("win_rate", "win_rate_lc", "win_rate_heldout_lc")
    assert common_measure([line(1, 0.5, *every)]) == "win_rate_heldout_lc"
    assert common_measure([line(1, 0.5, *every), line(2, 0.5, *every[:2])]) == "win_rate_lc"
    with pytest.raises(ValueError, match="share none of the win rates"):
        common_measure([{"batch": 1}])


def test_validations_without_the_number_are_no_points() -> None:
    lines = [line(1, 0.5, "win_rate_lc"), {**line(2, 0.5, "win_rate_lc"), "win_rate_lc": None}]
    assert [each.batch for each in run_points(lines)] == [1]


def test_the_picture_shows_lines_with_intervals_knee_and_choice() -> None:
    axes = draw_frontier({"a": BENT, "b": [point(3, 0.5, 0.4)]}, "win_rate_lc").axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert {"a", "b", "knee, batch 5", "to ship: a, batch 15"} <= set(labels)
    assert len(axes.containers) == 2
    assert "length-controlled" in axes.get_title()


# ---- the command


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs: the second is better at its start and over-optimised at its end."""
    for name, rates in {"one": [0.3, 0.45, 0.5], "two": [0.3, 0.6, 0.4]}.items():
        log = ValidationLog(tmp_path / name)
        for number, rate in enumerate(rates):
            log.add(10 * number, {**line(10 * number, rate, "win_rate", "win_rate_lc")}, [])
    return tmp_path / "one", tmp_path / "two"


def write_checkpoint(path: Path, batches: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = {"epoch_loop.batch_progress": {"total": {"processed": batches}}}
    torch.save({"loops": {"fit_loop": progress}}, path)


def test_the_command_prints_and_writes_its_choice(runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(runs[1] / "checkpoints" / "last.ckpt", 20)
    main([str(run) for run in runs] + ["--output", str(tmp_path / "out" / "both")])
    report = json.loads((tmp_path / "out" / "both.json").read_text())
    assert report["measure"] == "win_rate_lc"
    assert (report["ship"]["run"], report["ship"]["batch"]) == (str(runs[1]), 10)
    assert report["ship"]["checkpoint_batch"] == 20
    assert [each["batch"] for each in report["runs"][str(runs[0])]["points"]] == [0, 10, 20]
    assert Image.open(tmp_path / "out" / "both.png").size == (720, 520)
    printed = capsys.readouterr().out
    assert "to ship" in printed
    assert "10 batches away" in printed


def test_a_rate_at_equal_lengths_that_is_an_extrapolation_ships_nothing(tmp_path: Path, capsys) -> None:
    """A run that won 0.10 of its comparisons read 0.95 to ship: every response was shorter than its anchor."""
    log = ValidationLog(tmp_path / "run")
    for batch, response, rate in ((1, "abc", 0.4), (2, "ab", 0.95)):
        rows = [{"response": text, "anchor": anchor} for text, anchor in ((response, "abc"), ("a ", "abcd"))]
        log.add(batch, {**line(batch, rate, "win_rate_lc"), "win_rate": 0.1, "win_prob": 0.2}, rows)
    args = [str(log.folder), "--output", str(tmp_path / "both")]
    main(args)
    printed = " ".join(capsys.readouterr().out.split())
    assert "batch 1 (win probability at equal lengths 0.400, at their own lengths 0.200)" in printed
    assert "left out: at 1 of 2 validations every response is shorter" in printed
    log.add(1, log.read()[0], log.rows(2))
    log.add(2, {**line(2, 0.95, "win_rate_lc", "win_rate"), "win_rate": 0.1}, log.rows(1))
    main(args)
    assert json.loads((tmp_path / "both.json").read_text())["ship"] is None
    assert "ship: nothing, since at 2 of 2 validations" in " ".join(capsys.readouterr().out.split())
    main([*args, "--measure", "win_rate"])
    assert json.loads((tmp_path / "both.json").read_text())["ship"]["rate"] == 0.1


def test_the_checkpoint_of_the_validation_is_named_when_it_is_kept(runs) -> None:
    folder = runs[1] / "checkpoints"
    write_checkpoint(folder / "last.ckpt", 20)
    write_checkpoint(folder / "mine.ckpt", 10)
    found = checkpoint_for(runs[1], point(10, 1.0, 0.6))
    assert found == {"checkpoint": str(folder / "mine.ckpt"), "checkpoint_batch": 10, "advice": None}
    write_checkpoint(partial_path(folder, 10), 10)
    own = publish(partial_path(folder, 10), world_size=1)
    assert checkpoint_for(runs[1], point(10, 1.0, 0.6))["checkpoint"] == str(own)
    manifest_of(own).unlink()  # torn, so that the other one is what can be shipped
    assert checkpoint_for(runs[1], point(10, 1.0, 0.6))["checkpoint"] == str(folder / "mine.ckpt")


def test_a_run_without_checkpoints_says_what_keeps_them(runs) -> None:
    (runs[0] / "checkpoints").mkdir()
    (runs[0] / "checkpoints" / "torn.ckpt").write_bytes(b"no checkpoint")
    found = checkpoint_for(runs[0], point(10, 1.0, 0.6))
    assert found["checkpoint"] is None
    assert "checkpoint.every_n_batches" in found["advice"]


def test_a_folder_without_validations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"validation\.jsonl is missing or empty; .*val_check_interval"):
        main([str(tmp_path)])


def test_a_measure_that_a_run_lacks_is_refused(runs) -> None:
    with pytest.raises(ValueError, match="has no win_rate_heldout_lc; .*heldout_judge"):
        main([str(runs[0]), "--measure", "win_rate_heldout_lc"])
