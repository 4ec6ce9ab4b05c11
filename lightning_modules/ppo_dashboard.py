"""Page of a PPO run in TensorBoard's tab "Custom Scalars"."""

from typing import Any

from prl.types import Experience, Scores

Chart = list[Any]


def _lines(*tags: str) -> Chart:
    return ["Multiline", [f"^{tag}$" for tag in tags]]  # TensorBoard reads these as regular expressions


def _with_interval(tag: str) -> Chart:
    return ["Margin", [tag, f"{tag}_lo", f"{tag}_hi"]]


LAYOUT: dict[str, dict[str, Chart]] = {
    "1. Does it get better? (validation)": {
        "win rate, training judge": _with_interval("val/win_rate"),
        "win rate, held-out judge": _with_interval("val/win_rate_heldout"),
        "win rate at equal lengths, held-out judge": _with_interval("val/win_rate_heldout_lc"),
        "win rate at equal lengths, training judge": _with_interval("val/win_rate_lc"),
        "gap between the judges: near 0": _with_interval("val/goodhart_gap"),
        "KL to the reference, nats": _lines("val/kl"),
    },
    "2. Does it learn? (every iteration)": {
        "reward and win probability": _lines("reward/win_prob", "reward/win_rate", "reward/score"),
        "KL to the reference: k1 and k3 near each other": _lines("kl/k1", "kl/k3"),
        "explained variance: rises to 1": _lines("value/explained_var"),
        "length of responses, tokens": _lines(
            "completions/mean_length", "completions/min_length", "completions/max_length"
        ),
    },
    "3. Is it healthy?": {
        "share of tokens clipped: below 0.2": _lines("policy/clip_frac_low", "policy/clip_frac_high"),
        "KL within the update: below 0.05": _lines("policy/approx_kl"),
        "entropy per token: falls slowly": _lines("policy/entropy_sampled"),
        "gradient norm": _lines("policy/grad_norm"),
        "rewards that are missing or flat": _lines("reward/failed_frac", "reward/saturated_frac", "reward/tie_rate"),
        "judge: order gap, flip rate, cut": _lines("reward/order_gap", "reward/flip_rate", "reward/judge_cut_rate"),
        "updates left out: 0": _lines("health/skipped_steps"),
    },
    "4. Where does the time go?": {
        "seconds of an iteration": _lines(
            "time/rollout_s", "time/anchors_s", "time/judge_s", "time/score_s", "time/update_s"
        ),
        "tokens per second": _lines("perf/tok_s"),
        "peak memory, GiB": _lines(
            *(f"mem/peak_gib/{phase}" for phase in ("rollout", "anchors", "judge", "score", "update"))
        ),
    },
}
"""Category -> chart -> tags."""


def draw_iteration(tensorboard: Any, scores: Scores, experience: Experience, step: int) -> None:
    """Write the histograms of an iteration: win probabilities, if there are any, and advantages."""
    if scores.verdict is not None:
        judged = scores.verdict.select(scores.verdict.judged)
        tensorboard.add_histogram("reward/win_prob_histogram", judged.win_prob.float().cpu(), step)
    advantages = experience.advantages[experience.rollout.response_mask]
    tensorboard.add_histogram("policy/advantage_histogram", advantages.float().cpu(), step)
