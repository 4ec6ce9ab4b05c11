"""What a run writes for TensorBoard, read back from the event files."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from lightning_modules.dashboards import JUDGE_LAYOUT, LAYOUT, Layout, ppo_layout
from lightning_modules.policy_base import sample_table
from prl.rl.health import KINDS
from tests.integration.runs import CONFIGS, DATA, Home, Interrupt, InterruptedRun, callback

MODEL = "--model.init_args."
LEARNING_RATES = {"policy", "policy_vectors", "critic", "critic_vectors"}
PHASES = ("rollout", "anchors", "judge", "score", "update")
PPO_TAGS = {
    *(f"reward/{name}" for name in ("win_prob", "win_rate", "score", "logodds_mean", "logodds_std")),
    *(
        f"reward/{name}"
        for name in ("score_std", "tie_rate", "saturated_frac", "order_gap", "flip_rate", "failed_frac")
    ),
    *("kl/k1", "kl/k1_stderr", "kl/k3", "kl/coef"),
    *(f"policy/{name}" for name in ("loss", "approx_kl", "clip_frac_low", "clip_frac_high", "ratio_mean")),
    *("policy/first_ratio", "policy/num_steps", "policy/grad_norm"),
    *("policy/ratio_max", "policy/entropy", "policy/entropy_sampled"),
    *(f"value/{name}" for name in ("loss", "clip_frac", "mean", "return_mean", "explained_var")),
    *(f"completions/{name}" for name in ("mean_length", "min_length", "max_length")),
    *("completions/clipped_ratio", "completions/empty_ratio"),
    *("progress/episodes", "perf/tok_s", "perf/judge_saved_tokens", "reward/judge_cut_rate"),
    *(tag for name in PHASES for tag in (f"time/{name}_s", f"mem/peak_gib/{name}")),
    *(f"health/{name}" for name in ("skipped_steps", *KINDS)),
}
WIN_RATES = ("win_rate", "win_prob", "win_rate_lc", "win_rate_heldout", "win_prob_heldout", "win_rate_heldout_lc")
ANCHOR_TAGS = {"anchors/mean_version", "anchors/replaced", "anchors/refused"}
REPLACED_TAGS = {"anchors/beaten_win_rate", "anchors/confirmed_win_prob"}
"""Of iterations in which an anchor is replaced."""
SUMMARY_TAGS = {"0_summary/win_rate", "0_summary/win_rate_heldout", "0_summary/kl"}
PPO_VALIDATION_TAGS = {
    *SUMMARY_TAGS,
    *(f"val/{name}{end}" for name in (*WIN_RATES, "goodhart_gap") for end in ("", "_lo", "_hi")),
    *(
        "val/order_gap",
        "val/kl",
        "val/kl_sqrt",
        "val/length",
        "val/clipped_ratio",
        "val/goodhart_alarm",
        "val/since_best",
        "val/failed_frac",
    ),
}
JUDGE_FIGURES = {"calibration/reliability", "val/margins", "val/orders", "val/accuracy_by_length"}
JUDGE_TAGS = {"train/loss", "train/accuracy", "train/margin", "perf/saved_tokens"}
JUDGE_VALIDATION_TAGS = {
    *("val/accuracy", "val/accuracy_chosen_first", "val/accuracy_rejected_first", "val/nll", "val/brier", "val/ece"),
    *("val/order_gap", "val/flip_rate", "val/first_position_rate", "val/margin"),
    *("val/accuracy_len_matched", "val/accuracy_shorter_wins", "val/longer_rate", "val/baseline_longer"),
}


@pytest.fixture(scope="module", autouse=True)
def _figures_without_paint() -> None:
    """Paint them: images are looked at here."""


def events(run: Path) -> EventAccumulator:
    board = EventAccumulator(str(run), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0, "images": 0})
    board.Reload()
    return board


def scalars(board: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def text(board: EventAccumulator, tag: str) -> list[tuple[int, str]]:
    events = board.Tensors(f"{tag}/text_summary")
    return [(event.step, make_ndarray(event.tensor_proto).item().decode()) for event in events]


def assert_sound(board: EventAccumulator) -> None:
    for tag, points in scalars(board).items():
        steps = [step for step, _ in points]
        if tag != "epoch":  # Lightning writes it beside training and validation numbers of the same batch
            assert steps == sorted(set(steps)), f"{tag}: steps {steps}"
        assert all(math.isfinite(value) for _, value in points), f"{tag}: {points}"
    for tag in board.Tags()["histograms"]:
        steps = [event.step for event in board.Histograms(tag)]
        assert steps == sorted(set(steps)), f"{tag}: steps {steps}"


def table(markdown: str) -> list[list[str]]:
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    return [header, *rows]


def everything(home: Home) -> list[str]:
    """Return settings with which pairwise PPO logs all it can."""
    learning = [f"{MODEL}critic.warmup", "0", f"{MODEL}objective.init_args.entropy_coef", "0.001"]
    judge = f"{MODEL}heldout_judge"
    path = [f"{judge}.init_args.path", str(home.bradley_terry)]
    bank = {"class_path": "AnchorBank", "init_args": {"min_judged": 1, "refresh_above": 0.01}}
    learning += [f"{MODEL}anchors", json.dumps(bank)]
    return [*learning, judge, "prl.judge.BradleyTerryJudge", *path]


@pytest.fixture(scope="module")
def boards(home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, EventAccumulator]:
    """Four batches of each stage with two validations."""
    found = {}
    for stage in DATA:
        run = tmp_path_factory.mktemp(stage)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["prl"])
            home.run(
                stage, run, "--trainer.val_check_interval", "2", *(everything(home) if stage == "pairwise_ppo" else [])
            )
        found[stage] = events(run)
    return found


Boards = dict[str, EventAccumulator]


def test_pairwise_ppo(boards: Boards) -> None:
    board = boards["pairwise_ppo"]
    assert_sound(board)
    points = scalars(board)
    rates = {tag.rsplit("/", 1)[-1] for tag in points if tag.startswith("lr-")}
    assert rates == LEARNING_RATES
    expected = PPO_TAGS | PPO_VALIDATION_TAGS | ANCHOR_TAGS | REPLACED_TAGS | {"epoch"}
    assert {tag for tag in points if not tag.startswith("lr-")} == expected
    assert all(len(points[tag]) == 4 for tag in PPO_TAGS)
    assert all(len(points[tag]) == 2 for tag in PPO_VALIDATION_TAGS)
    assert all(0 <= value <= 1 for tag in ("reward/win_prob", "val/win_rate") for _, value in points[tag])
    histograms = {"reward/win_prob_histogram", "policy/advantage_histogram", "val/win_prob_histogram"}
    assert set(board.Tags()["histograms"]) == histograms
    assert len(board.Histograms("policy/advantage_histogram")) == 4
    assert [event.step for event in board.Images("frontier/kl_winrate")] == [1, 3]
    assert all(value > 0 for tag in points if tag.startswith("mem/") for _, value in points[tag])
    assert all(value >= 1 for _, value in points["policy/ratio_max"])


@pytest.mark.parametrize(
    ("stage", "number", "histogram"),
    [
        ("pairwise_ppo", "reward/win_prob", "reward/win_prob_histogram"),
        ("pairwise_ppo", "val/win_rate", "val/win_prob_histogram"),
        ("generative_reward", "val/accuracy", "val/win_prob_of_chosen"),
    ],
)
def test_histograms_share_the_x_axis_of_the_numbers(stage: str, number: str, histogram: str, boards: Boards) -> None:
    steps = [step for step, _ in scalars(boards[stage])[number]]
    assert [event.step for event in boards[stage].Histograms(histogram)] == steps


def test_table_of_samples(home: Home, boards: Boards) -> None:
    tables = text(boards["pairwise_ppo"], "samples/validation")
    assert len(tables) == 2
    prompts = home.data("prompts.validation").read_text()
    for _, markdown in tables:
        header, *rows = table(markdown)
        assert header == ["prompt", "response", "anchor"]
        assert len(rows) == 8
        shown = []
        for cell, response, anchor in rows:
            numbers, _, prompt = cell.partition("<br>")
            assert f'"{prompt}", "anchor": "{anchor}"' in prompts
            assert response
            found = dict(each.rsplit(" ", 1) for each in numbers.split(", "))
            assert list(found) == ["p(win)", "response first", "anchor first", "held-out judge"]
            assert all(0 <= float(number) <= 1 for number in found.values())
            shown.append(float(found["p(win)"]))
        assert shown == sorted(shown, reverse=True)


def test_samples_are_spread_from_the_best_to_the_worst() -> None:
    """Ties in the majority leave room for the ends; a comparison that could not be judged is none of them."""
    probabilities = [0.5] * 20 + [0.9, math.nan, 0.2, 0.7]
    rows = [
        {"prompt": [{"role": "user", "content": str(n)}], "response": "x", "anchor": "y"}
        | dict.fromkeys(("p_win", "p_response_first", "p_anchor_first"), p)
        for n, p in enumerate(probabilities)
    ]
    for count, expected in {4: ["0.900", "0.500", "0.500", "0.200"], 1: ["0.900"], 0: []}.items():
        cells = [row[0] for row in table(sample_table(rows, count))[1:]]
        assert [re.search(r"p\(win\) ([\d.]+),", cell)[1] for cell in cells] == expected
    assert len(table(sample_table(rows, 99))) == 1 + 23


def test_generative_judge(boards: Boards) -> None:
    board = boards["generative_reward"]
    assert_sound(board)
    points = scalars(board)
    assert points.keys() >= JUDGE_TAGS | JUDGE_VALIDATION_TAGS
    assert all(len(points[tag]) == 4 for tag in JUDGE_TAGS)
    assert all(len(points[tag]) == 2 for tag in JUDGE_VALIDATION_TAGS)
    assert set(board.Tags()["histograms"]) >= {"val/win_prob_of_chosen", "val/position_bias"}


@pytest.mark.parametrize("stage", ["generative_reward", "bradley_terry"])
def test_pictures_of_a_judge(stage: str, boards: Boards) -> None:
    board = boards[stage]
    steps = [step for step, _ in scalars(board)["val/accuracy"]]
    assert set(board.Tags()["images"]) == JUDGE_FIGURES
    for tag in JUDGE_FIGURES:
        images = board.Images(tag)
        assert [event.step for event in images] == steps
        picture = np.asarray(Image.open(io.BytesIO(images[-1].encoded_image_string)))
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 10  # something is drawn


@pytest.mark.parametrize(("tag", "kind"), [("samples/worst", "wrong"), ("samples/order_gap", "order")])
def test_tables_of_pairs(tag: str, kind: str, home: Home, boards: Boards) -> None:
    pairs = [json.loads(line) for line in home.data("pairs.validation").read_text().splitlines()]
    tables = text(boards["generative_reward"], tag)
    assert len(tables) == 2
    for _, markdown in tables:
        header, *rows = table(markdown)
        assert header == ["prompt", "chosen", "rejected"]
        numbers, prompts = zip(*(row[0].split("<br>") for row in rows), strict=True)
        found = [
            {"prompt": prompt, "chosen": row[1], "rejected": row[2]} for prompt, row in zip(prompts, rows, strict=True)
        ]
        assert all(each in pairs for each in found)
        assert len({str(each) for each in found}) == len(rows) > 0
        named = [dict(each.rsplit(" ", 1) for each in cell.split(", ")[:4]) for cell in numbers]
        mean, first, second = (
            [float(each[name]) for each in named] for name in ("p(chosen)", "chosen first", "rejected first")
        )
        if kind == "wrong":
            assert list(mean) == sorted(mean)
            assert max(mean) <= 0.5
        else:
            gaps = [abs(p - q) for p, q in zip(first, second, strict=True)]
            assert gaps == pytest.approx(sorted(gaps, reverse=True), abs=2e-3)


@pytest.mark.parametrize(("stage", "number"), [("supervised", "val/loss"), ("bradley_terry", "val/accuracy")])
def test_other_stages(stage: str, number: str, boards: Boards) -> None:
    assert_sound(boards[stage])
    assert scalars(boards[stage]).keys() >= {"train/loss", number}


@pytest.mark.parametrize("stage", ["generative_reward", pytest.param("pairwise_ppo", marks=pytest.mark.slow)])
def test_a_resumed_run_draws_one_line(stage: str, home: Home, tmp_path: Path) -> None:
    """Batches after the last checkpoint are trained again; what the lost ones had written must not show twice."""
    length: list[Any] = [f"{MODEL}iterations", "6"] if stage == "pairwise_ppo" else ["--trainer.max_steps", "6"]
    with pytest.raises(InterruptedRun):
        home.run(stage, tmp_path, *length, callback(Interrupt, batch=4))
    home.run(stage, tmp_path, *length, "--ckpt_path", "last")
    board = events(tmp_path)
    assert_sound(board)
    tag = "reward/win_prob" if stage == "pairwise_ppo" else "train/loss"
    assert len(scalars(board)[tag]) == 6


def test_a_run_that_starts_anew_draws_its_own_line_alone(home: Home, tmp_path: Path) -> None:
    home.run("supervised", tmp_path, "--trainer.max_steps", "4")
    home.run("supervised", tmp_path, "--trainer.max_steps", "2", "--overwrite", "true")
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    board = events(tmp_path)
    assert_sound(board)
    assert [step for step, _ in scalars(board)["train/loss"]] == [0, 1]


def documented_tags() -> set[str]:
    """Every tag of docs/metrics.md, braces expanded."""
    found = set()
    for line in (CONFIGS.parent / "docs" / "metrics.md").read_text().splitlines():
        for tag in re.findall(r"`([a-z0-9_]+/[^`]+)`", line.split("|")[1]) if line.startswith("| `") else ():
            opening, _, rest = tag.partition("{")
            names, _, ending = rest.partition("}")
            found |= {f"{opening}{name}{ending}" for name in names.split(",")} if rest else {tag}
    return found


def test_documented_metrics_are_the_logged_ones(boards: Boards) -> None:
    logged = set()
    for board in boards.values():
        tags = board.Tags()
        logged |= {
            *tags["scalars"],
            *tags["histograms"],
            *tags["images"],
            *(tag.removesuffix("/text_summary") for tag in tags["tensors"] if not tag.startswith("custom_scalars")),
        }
    logged = {tag for tag in logged if tag != "epoch" and not tag.startswith("lr-")}
    # The world's pairs name no source; the age is that of another kind of anchors than the run has (test_ppo_sources).
    # Those of spending are of judges around a judge (test_spending).
    elsewhere = {"anchors/age", "judge/second_order_share", "perf/verdict_store_hit_rate"}
    # So are those of arenas (test_run_arena) and of judges that think (test_reasoning).
    elsewhere |= {tag for tag in documented_tags() if tag.startswith("arena/") or "thought" in tag}
    assert logged == {tag for tag in documented_tags() if "<" not in tag} - elsewhere


def test_the_page_of_a_run_shows_tags_that_there_are(boards: Boards) -> None:
    """A tag that is misspelt would be an empty chart."""
    assert ppo_layout(has_heldout=True, has_critic=True) == LAYOUT
    for stage, layout in {"pairwise_ppo": LAYOUT, "generative_reward": JUDGE_LAYOUT}.items():
        assert tags_of(layout) <= set(boards[stage].Tags()["scalars"])
        assert "custom_scalars__config__" in boards[stage].Tags()["tensors"]
    assert "custom_scalars__config__" in boards["bradley_terry"].Tags()["tensors"]


def test_a_part_that_a_run_does_not_have_gets_no_empty_chart() -> None:
    left = tags_of(ppo_layout(has_heldout=False, has_critic=False))
    ends = ("", "_lo", "_hi")
    gone = {f"val/{name}{end}" for name in ("win_rate_heldout", "win_rate_heldout_lc", "goodhart_gap") for end in ends}
    assert tags_of(LAYOUT) - left == gone | {"value/explained_var"}


def test_the_page_of_scalars_opens_with_the_summary(boards: Boards) -> None:
    points = scalars(boards["pairwise_ppo"])
    assert set(sorted(points)[: len(SUMMARY_TAGS)]) == SUMMARY_TAGS
    for tag in SUMMARY_TAGS:
        assert points[tag] == points[tag.replace("0_summary", "val")]


def tags_of(layout: Layout) -> set[str]:
    return {tag.strip("^$") for charts in layout.values() for _, tags in charts.values() for tag in tags}
