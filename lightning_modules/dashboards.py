"""Pages of runs in TensorBoard's tab "Custom Scalars": a few charts that show the course of a run."""

from collections.abc import Mapping
from typing import Any

from prl.types import Experience, Scores

Chart = list[Any]


def _lines(*tags: str) -> Chart:
    return ["Multiline", [f"^{tag}$" for tag in tags]]  # TensorBoard reads these as regular expressions


def _with_interval(tag: str) -> Chart:
    return ["Margin", [tag, f"{tag}_lo", f"{tag}_hi"]]


Layout = dict[str, dict[str, Chart]]
"""Category -> chart -> tags. TensorBoard shows the charts of a category in their order, and behind them those with an
interval, the last one first; numbers lead the names, so that the order can be seen."""

LAYOUT: Layout = {
    "1. Does it get better? (validation)": {
        "1 KL to the reference, nats": _lines("val/kl"),
        "6 win probability at equal lengths, held-out judge": _with_interval("val/win_rate_heldout_lc"),
        "5 win probability at equal lengths, training judge": _with_interval("val/win_rate_lc"),
        "4 gap between the judges: near 0": _with_interval("val/goodhart_gap"),
        "3 win rate, held-out judge": _with_interval("val/win_rate_heldout"),
        "2 win rate, training judge": _with_interval("val/win_rate"),
    },
    "2. Does it learn? (every iteration)": {
        "1 reward and win probability": _lines("reward/win_prob", "reward/win_rate", "reward/score"),
        "2 KL to the reference: k1 and k3 near each other": _lines("kl/k1", "kl/k3"),
        "3 explained variance: rises to 1": _lines("value/explained_var"),
        "4 length of responses, tokens": _lines(
            "completions/mean_length", "completions/min_length", "completions/max_length"
        ),
    },
    "3. Is it healthy?": {
        "1 share of tokens clipped: below 0.2": _lines("policy/clip_frac_low", "policy/clip_frac_high"),
        "2 KL within the update: below 0.05": _lines("policy/approx_kl"),
        "3 entropy per token: falls slowly": _lines("policy/entropy_sampled"),
        "4 gradient norm": _lines("policy/grad_norm"),
        "5 rewards that are missing or flat": _lines("reward/failed_frac", "reward/saturated_frac", "reward/tie_rate"),
        "6 judge: order gap, flip rate, cut": _lines("reward/order_gap", "reward/flip_rate", "reward/judge_cut_rate"),
        "7 updates left out: 0": _lines("health/skipped_steps"),
    },
    "4. Where does the time go?": {
        "1 seconds of an iteration": _lines(
            "time/rollout_s", "time/anchors_s", "time/judge_s", "time/score_s", "time/update_s"
        ),
        "2 tokens per second": _lines("perf/tok_s"),
        "3 peak memory, GiB": _lines(
            *(f"mem/peak_gib/{phase}" for phase in ("rollout", "anchors", "judge", "score", "update"))
        ),
    },
}
"""Page of a PPO run with every part."""

JUDGE_LAYOUT: Layout = {
    "1. Does it get better? (validation)": {
        "1 accuracy, beside that of the longer response": _lines("val/accuracy", "val/baseline_longer"),
        "2 negative log-likelihood, nats: below 0.69": _lines("val/nll"),
        "3 margin towards the label": _lines("val/margin"),
    },
    "2. Does it learn? (every step)": {
        "1 loss": _lines("train/loss"),
        "2 accuracy": _lines("train/accuracy"),
    },
    "3. Can it be trusted? (validation)": {
        "1 accuracy by length: near each other": _lines(
            "val/accuracy", "val/accuracy_len_matched", "val/accuracy_shorter_wins"
        ),
        "2 accuracy by order: near each other": _lines("val/accuracy_chosen_first", "val/accuracy_rejected_first"),
        "3 calibration error: below 0.15": _lines("val/ece"),
        "4 order gap and flip rate: below 0.2": _lines("val/order_gap", "val/flip_rate"),
        "5 readings won by the first place: near 0.5": _lines("val/first_position_rate"),
    },
}
"""Page of a judge in training."""

SUMMARY = ("win_rate", "win_rate_heldout", "kl")
"""Figures of a validation that open TensorBoard's page of scalars, which sorts by tag; `0_summary/...`."""


def ppo_layout(*, has_heldout: bool, has_critic: bool) -> Layout:
    """Return the page of a PPO run without the charts that would stay empty: of a held-out judge, of a critic."""
    absent = ("val/win_rate_heldout", "val/goodhart_gap") * (not has_heldout) + ("value/",) * (not has_critic)
    return {
        category: {
            name: chart
            for name, chart in charts.items()
            if not any(tag.strip("^").startswith(absent) for tag in chart[1])
        }
        for category, charts in LAYOUT.items()
    }


def draw_summary(tensorboard: Any, numbers: Mapping[str, float], step: int) -> None:
    """Repeat the figures of a validation that say whether the policy gets better, where they are seen first."""
    for name in SUMMARY:
        if name in numbers:
            tensorboard.add_scalar(f"0_summary/{name}", numbers[name], step)


def draw_iteration(tensorboard: Any, scores: Scores, experience: Experience, step: int) -> None:
    """Write the histograms of an iteration: win probabilities and advantages, where there are any.

    There are no advantages where filters leave out every response, and TensorBoard has no histogram of nothing.
    """
    drawn = {"policy/advantage_histogram": experience.advantages[experience.rollout.response_mask]}
    if scores.verdict is not None:
        drawn["reward/win_prob_histogram"] = scores.verdict.select(scores.verdict.judged).win_prob
    for name, values in drawn.items():
        if values.numel():
            tensorboard.add_histogram(name, values.float().cpu(), step)
