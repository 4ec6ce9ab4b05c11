"""Measure the second orders that AdaptiveOrder saves in the quickstart's world, and how far it changes probabilities.

Needs a finished quickstart (`prl quickstart --out runs/quickstart`) and makes no run. Thresholds are fitted on the
validation pairs of the judge for several stated errors, and tried on rollouts of the supervised policy and of the
trained one against the anchors of the world, and on the validation pairs themselves. Shares, errors and rank
correlations are over comparisons of two different responses: equal ones need one reading in any case. Prints a table in
markdown; the last line of each set is the smallest threshold whose rank correlation with both orders is 0.99.
"""

import argparse
from pathlib import Path
from typing import Any

ERRORS = (0.02, 0.03, 0.05)
CORRELATION = 0.99
STEPS = 100
BATCH = 250


def rollouts(policy: Path, prompts: Path, number: int) -> tuple[list[Any], list[str], list[str]]:
    """Sample a response to each of the first prompts, beside its anchor."""
    from prl.config import ModelSource, Sampling
    from prl.data import AnchoredPrompt, DataSource, load_records
    from prl.rollouts.prompts import PromptSampler

    records = load_records(DataSource(str(prompts), limit=number), AnchoredPrompt).records
    sampling = Sampling(max_new_tokens=12)
    sampler = PromptSampler(
        ModelSource(path=str(policy)), sampling, records, name=prompts.name, max_prompt_length=32, seed=0
    )
    starts = range(0, len(records), BATCH)
    texts = [text.strip() for start in starts for text in sampler.sample(start, BATCH).texts]
    return [record.prompt for record in records], texts, [record.anchors[0] for record in records]


def line(both: Any, rule: Any, threshold: float, offset: float) -> tuple[float, float, float]:
    """Read verdicts by a threshold: saved share, error and rank correlation over comparisons that differ."""
    from torchmetrics.functional import spearman_corrcoef

    found = rule(threshold, offset)
    differ = both.margin_ab != both.margin_ba
    saved = found.one_order[differ].double().mean()
    one, two = found.win_prob[differ].double(), both.win_prob[differ].double()
    return float(saved), float((one - two).abs().mean()), float(spearman_corrcoef(one, two))


def measure(judge: Any, name: str, texts: tuple[list[Any], list[str], list[str]], fitted: list[Any]) -> list[str]:
    """Try the fitted thresholds on one set, and find the one with the wanted rank correlation."""
    from prl.judge import AdaptiveOrder
    from prl.verdict import Verdict

    both: Verdict = judge.compare(*texts)
    differ = both.margin_ab != both.margin_ba

    def rule(threshold: float, offset: float) -> Verdict:
        return AdaptiveOrder(judge, threshold, offset).compare(*texts)

    head = f"| {name} | {len(both)} | {int(differ.sum())} |"
    lines = []
    for each in fitted:
        saved, error, rank = line(both, rule, each.threshold, each.offset)
        stated = f"{each.error} | {each.threshold:.2f}"
        lines.append(f"{head} {stated} | {100 * saved:.0f} % | {error:.4f} | {rank:.3f} |")
    offset = fitted[0].offset
    distances = sorted((both.margin_ab[differ] - offset).abs().tolist())
    for step in range(STEPS + 1):
        threshold = distances[min(step * len(distances) // STEPS, len(distances) - 1)] if step else 0.0
        saved, error, rank = line(both, rule, threshold, offset)
        if rank >= CORRELATION:
            lines.append(f"{head} none | {threshold:.2f} | {100 * saved:.0f} % | {error:.4f} | {rank:.3f} |")
            break
    return lines


def main() -> None:
    """Fit on the judge's pairs, then measure on rollouts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument(
        "--verdicts", type=Path, required=True, help="folder of verdicts, so that nothing is read twice"
    )
    parser.add_argument("--prompts", type=int, default=1000, help="rollouts of each policy")
    options = parser.parse_args()
    from prl.data import DataSource, PreferencePair, load_records
    from prl.judge import StoredJudge
    from prl.judge.adaptive import fit_threshold
    from prl.judge.examination import judge_pairs
    from prl.judge.loading import judge_in

    home, world = options.quickstart, options.quickstart / "world"
    judge = StoredJudge(judge_in(home / "judge" / "model"), str(options.verdicts))
    judge.load()
    pairs = load_records(DataSource(str(world / "pairs.validation.jsonl")), PreferencePair).records
    judged = judge_pairs(judge, pairs)
    fitted = [fit_threshold(judged.verdict, error, judged.prompts) for error in ERRORS]
    print(
        "| comparisons | all | different | stated error | threshold | second orders saved | error | rank correlation |"
    )
    print("|---|---|---|---|---|---|---|---|")
    sets = {"validation pairs": ([p.prompt for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs])}
    for stage in ("supervised", "ppo"):
        texts = rollouts(home / stage / "model", world / "prompts.train.jsonl", options.prompts)
        sets[f"rollouts of {stage}"] = texts
    for name, texts in sets.items():
        print("\n".join(measure(judge, name, texts, fitted)), flush=True)


if __name__ == "__main__":
    main()
