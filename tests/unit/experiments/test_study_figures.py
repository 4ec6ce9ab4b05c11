"""Figures of the studies: what is drawn, from lines of results."""

from pathlib import Path

from matplotlib.figure import Figure

from experiments.figures import draw_judges, draw_policies


def test_policies_are_drawn_by_run_and_as_means_without_long_runs(tmp_path: Path, monkeypatch) -> None:
    def line(arm: str, judge: int, golds: list[float]) -> dict:
        points = [{"batch": 5 * n, "kl": 0.1 * n, "gold": gold} for n, gold in enumerate(golds)]
        return {"variant": f"{arm} | judge {judge}", "points": points}

    drawn: list[Figure] = []
    monkeypatch.setattr("experiments.figures._save", lambda figure, path: drawn.append(figure))
    lines = [
        line("a", 0, [0.7, 0.8]),
        line("a", 1, [0.7, 0.9]),
        line("a", 0, [0.7, 0.8, 0.1]),
        line("b", 0, [0.7, 0.6]),
    ]
    draw_policies(lines, ["a", "b", "never run"], tmp_path / "x.png")
    axes = drawn[0].axes[0]
    thick = {each.get_label(): list(each.get_ydata()) for each in axes.lines if each.get_linewidth() > 1}
    assert thick == {"a": [0.7, 0.8500000000000001], "b": [0.7, 0.6]}
    assert len(axes.lines) == 2 + 2 + 1


def test_judges_are_drawn_into_a_file(tmp_path: Path) -> None:
    lines = [{"variant": "paired: one", "accuracy": 0.8 + 0.01 * seed} for seed in range(3)]
    draw_judges(lines, ["paired", "never run"], ["one", "other"], tmp_path / "deep" / "x.png")
    assert (tmp_path / "deep" / "x.png").read_bytes()[:4] == b"\x89PNG"
