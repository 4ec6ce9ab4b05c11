"""Do anchors help a judge to order two samples of one prompt?

The protocol is docs/results/claims/anchors.md, fixed before the first run. Needs runs/quickstart with its world and
supervised stage; trains JUDGES judges and as many Bradley-Terry models as `experiments.policies` does, and takes those
that are there. Nothing is learnt by reinforcement here: samples of the supervised policy are judged directly, and by
their win probabilities against an anchor. Each row is a line in experiments/results/anchors.jsonl.

    python -m experiments.anchors
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.online_inputs import read_rows, write_rows
from benchmarks.runs import missing_runs, run_options
from experiments.pages import publish
from experiments.policies import reward_model
from experiments.training import QUICKSTART
from experiments.verdicts import anchor_tables, every_run

RESULTS = Path("experiments/results/anchors.jsonl")
JUDGES = {"generative": "judge", "Bradley-Terry": "bradley_terry"}
ANCHORS = ("none", "ground truth", "best of 8", "bank of 8", "self-play")
PROMPTS, SAMPLES, TRIES = 1500, 4, 8
Compare = Callable[[list[str], list[str], list[str]], list[float]]
"""Prompts, responses and what they are compared with -> probabilities that the responses are better."""


@dataclass(frozen=True)
class Case:
    """A prompt that no training has seen, with samples of the supervised policy."""

    prompt: str
    truth: str
    samples: list[str]
    """Those to be ordered."""
    tries: list[str]
    """Further ones: anchors are chosen of them, and they tell how hard the prompt is for the policy."""

    @property
    def hard(self) -> bool:
        """Tell whether most tries are wrong."""
        return sum(gold(self.prompt, text) == 1 for text in self.tries) < TRIES / 2


def gold(prompt: str, response: str) -> float:
    """Measure the true quality of a response."""
    from prl.quickstart.world import gold_quality

    return gold_quality(prompt, response)


def cases(path: Path) -> list[Case]:
    """Draw the prompts and sample their responses, once."""
    from prl.config import ModelSource, Sampling
    from prl.data import AnchoredPrompt
    from prl.quickstart.world import right_answer, sample_prompt
    from prl.rollouts.prompts import PromptSampler

    if not path.exists():
        draw = Random("anchors")
        prompts = list(islice(dict.fromkeys(sample_prompt(draw, "validation") for _ in range(50 * PROMPTS)), PROMPTS))
        records = [each for text in prompts for each in AnchoredPrompt.parse({"prompt": text})]
        source = ModelSource(path=str(QUICKSTART / "supervised" / "model"))
        sampling = Sampling(max_new_tokens=12, per_prompt=SAMPLES + TRIES)
        sampler = PromptSampler(source, sampling, records, name="prompts", max_prompt_length=64, seed=0)
        rows = []
        for start in range(0, len(prompts), 50):
            some, texts = prompts[start : start + 50], sampler.sample(start, 50).texts
            of_each = [texts[n : n + SAMPLES + TRIES] for n in range(0, len(texts), SAMPLES + TRIES)]
            for text, own in zip(some, of_each, strict=True):
                rows.append(asdict(Case(text, right_answer(text), own[:SAMPLES], own[SAMPLES:])))
        write_rows(path, rows)
    return [Case(**row) for row in read_rows(path)]


def comparing(folder: Path) -> Compare:
    """Load a judge as a function of texts."""
    from prl.judge import load_judge

    judge = load_judge(folder)

    def compare(prompts: list[str], a: list[str], b: list[str]) -> list[float]:
        asked: list[Any] = [[{"role": "user", "content": text}] for text in prompts]
        return judge.compare(asked, a, b).win_prob.tolist()

    return compare


def knocked_out(some: list[Case], compare: Compare) -> list[str]:
    """Choose the best try of each prompt by a knockout, as `prl anchors` does."""
    import torch

    from prl.anchors.tournament import knockout
    from prl.verdict import Verdict

    def verdicts(prompts: list[Any], a: list[str], b: list[str]) -> Verdict:
        odds = torch.tensor(compare([each[0]["content"] for each in prompts], a, b), dtype=torch.float64).logit()
        return Verdict(odds, -odds)

    asked: list[Any] = [[{"role": "user", "content": case.prompt}] for case in some]
    return [each.text for each in knockout(asked, [case.tries for case in some], verdicts)]


def banked(some: list[Case], compare: Compare) -> list[str]:
    """Keep one anchor of each prompt, replaced by each later try that beats it, as an anchor bank of one policy."""
    kept = [case.tries[0] for case in some]
    for number in range(1, TRIES):
        rivals = [case.tries[number] for case in some]
        wins = compare([case.prompt for case in some], rivals, kept)
        kept = [rival if p > 0.5 else old for rival, old, p in zip(rivals, kept, wins, strict=True)]
    return kept


def anchors_of(kind: str, some: list[Case], compare: Compare) -> list[str]:
    """Give each prompt its anchor."""
    if kind == "ground truth":
        return [case.truth for case in some]
    if kind == "self-play":
        return [case.tries[0] for case in some]
    return (knocked_out if kind == "best of 8" else banked)(some, compare)


def ordered(some: list[Case], lead: Callable[[int, int, int], float]) -> dict[str, float]:
    """Compute how often two samples of unequal quality are put in their order; a tie counts one half.

    Args:
        some: prompts with samples.
        lead: number of a prompt and of two of its samples -> above 0 where the first is said to be better.
    """
    right: dict[bool, list[float]] = {True: [], False: []}
    for n, case in enumerate(some):
        quality = [gold(case.prompt, text) for text in case.samples]
        for i, j in combinations(range(SAMPLES), 2):
            if quality[i] != quality[j]:
                found = lead(n, i, j) * (quality[i] - quality[j])
                right[case.hard].append(0.5 if found == 0 else float(found > 0))
    every = right[True] + right[False]
    means = {name: sum(some) / max(1, len(some)) for name, some in (("order", every), ("order_hard", right[True]))}
    return {**means, "pairs": len(every), "pairs_hard": len(right[True])}


def against(some: list[Case], anchors: list[str], wins: list[list[float]]) -> dict[str, float]:
    """Compute how often the better one of sample and anchor is found, where one is better, and the sample by luck."""
    right: dict[bool, list[float]] = {True: [], False: []}
    for case, anchor, probabilities in zip(some, anchors, wins, strict=True):
        level = gold(case.prompt, anchor)
        for text, p in zip(case.samples, probabilities, strict=True):
            edge = gold(case.prompt, text) - level
            if edge:
                right[edge > 0].append(0.5 if p == 0.5 else float((p > 0.5) == (edge > 0)))
    every = right[True] + right[False]
    quality = [gold(case.prompt, anchor) for case, anchor in zip(some, anchors, strict=True)]
    return {
        "winner": sum(every) / len(every),
        "sample_better": len(right[True]) / len(every),
        "anchor_gold": sum(quality) / len(quality),
    }


def measure(folder: Path, kind: str, some: list[Case]) -> dict[str, float]:
    """Hold one judge with one kind of anchor against the truth."""
    compare = comparing(folder)
    prompts = [case.prompt for case in some]
    if kind == "none":
        asked = [(n, i, j) for n in range(len(some)) for i, j in combinations(range(SAMPLES), 2)]
        first, second = ([some[each[0]].samples[each[k]] for each in asked] for k in (1, 2))
        known = compare([prompts[n] for n, _, _ in asked], first, second)
        leads = {key: p - 0.5 for key, p in zip(asked, known, strict=True)}
        return ordered(some, lambda n, i, j: leads[n, i, j])
    anchors = anchors_of(kind, some, compare)
    columns = [compare(prompts, [case.samples[i] for case in some], anchors) for i in range(SAMPLES)]
    wins = [list(row) for row in zip(*columns, strict=True)]
    return {**ordered(some, lambda n, i, j: wins[n][i] - wins[n][j]), **against(some, anchors, wins)}


def main() -> None:
    """Measure what is missing, then write the tables of all judges that are there."""
    names = [f"{judge} | {kind}" for judge in JUDGES for kind in ANCHORS]
    options = run_options(__doc__, "runs/claims/anchors", names, seeds=5)
    some = cases(options.out / "samples.jsonl")

    def run(name: str, number: int) -> dict[str, float]:
        judge, _, kind = name.partition(" | ")
        return measure(reward_model(JUDGES[judge], number), kind, some)

    lines = missing_runs(RESULTS, options.wanted, run)
    hard = f"{sum(case.hard for case in some)} of {len(some)} prompts are hard."
    publish("anchors", hard, anchor_tables(lines, list(JUDGES), list(ANCHORS)), every_run(lines, "order_hard"))


if __name__ == "__main__":
    main()
