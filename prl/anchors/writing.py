"""Write best-of-n anchors of a policy to a file, for `prl anchors`."""

import hashlib
import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prl import __version__
from prl.anchors.tournament import Champion, knockout
from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt, DataSource, load_records
from prl.data.rows.reading import DataReport
from prl.judge.loading import Judge
from prl.judge.passport import as_json, describe_judge, weights_hash
from prl.rewards.folder import judge_folder
from prl.rollouts.prompts import PromptSampler
from prl.system.outputs import write_text, writing


def write_anchors(options: Namespace, beside: Path) -> tuple[int, dict[str, Any]]:
    """Sample candidates, choose one by a tournament, and write rows; the file gets its name when it is complete.

    Args:
        options: options of `prl anchors`.
        beside: file for the provenance of the anchors.

    Returns:
        The number of prompts with an anchor, and the contents of the provenance file.

    Raises:
        DataError: for bad rows of the prompts.
        ValueError: when a model is missing, or a prompt is too long.
    """
    sampling = Sampling(options.max_new_tokens, options.temperature)
    source = DataSource(options.prompts, options.split, options.name, options.columns, options.limit)
    found = load_records(source, AnchoredPrompt)
    sampler = Sampler(options, sampling, found.records)  # checks the length of every prompt
    judge = Judge.from_pretrained(options.judge) if options.judge else None
    provenance = describe(options, sampling, found.report)
    name = hashlib.sha256(as_json(provenance).encode()).hexdigest()[:12]
    unfinished = comparisons = 0
    silent: list[int] = []
    per_batch = max(1, options.batch_size // options.samples)
    starts = range(0, len(found.records), per_batch)
    with writing(options.output) as partial, partial.open("w", encoding="utf-8") as out:
        for start in tqdm(starts, desc="anchors", unit="batch"):
            records = found.records[start : start + per_batch]
            candidates, num_open = sampler.candidates(start, len(records), options.keep_unfinished)
            unfinished += num_open
            # All candidates are empty, and a run would refuse such a row.
            silent += [start + i for i, texts in enumerate(candidates, 1) if not texts]
            records = [record for record, texts in zip(records, candidates, strict=True) if texts]
            candidates = [texts for texts in candidates if texts]
            for record, champion in zip(records, choose(judge, records, candidates, options.seed + start), strict=True):
                comparisons += champion.num_comparisons
                row = {**record.extra, "prompt": list(record.prompt), "anchor": champion.text, "anchor_id": name}
                out.write(json.dumps({**row, "anchor_win_prob": round(champion.win_prob, 6)}) + "\n")
        provenance |= {"anchor_id": name, "num_comparisons": comparisons}
        provenance |= {"num_unfinished_samples": unfinished, "left_out_prompts": silent}
        write_text(beside, as_json(provenance))
    return len(found.records) - len(silent), provenance


def choose(
    judge: Judge | None, records: list[AnchoredPrompt], candidates: list[list[str]], seed: int
) -> list[Champion]:
    """Choose one response for each prompt."""
    if judge is None:
        return [Champion(texts[0], 0.5, 0) for texts in candidates]
    return knockout([record.prompt for record in records], candidates, judge.model.compare, seed=seed)


def describe(options: Namespace, sampling: Sampling, report: DataReport) -> dict[str, Any]:
    """Describe all that decides the anchors; equal descriptions give equal files on one machine."""
    policy = Path(options.policy)
    return {
        "prl": __version__,
        "method": "best_of_n" if options.samples > 1 else "sample",
        "samples": options.samples,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "keep_unfinished": options.keep_unfinished,
        "keep_thoughts": options.keep_thoughts,
        "chat_template_kwargs": options.chat_template_kwargs,
        "sampling": asdict(sampling),
        "dtype": options.dtype,
        "policy": {"path": options.policy, "weights_sha256": weights_hash(policy) if policy.is_dir() else None},
        "judge": None if options.judge is None else describe_judge(judge_folder(options.judge)),
        "prompts": {"source": report.source, "sha256": report.sha256, "num_kept": report.num_kept}
        | ({"columns": options.columns} if options.columns else {}),
    }


class Sampler(PromptSampler):
    """Sampler of candidates by the options of `prl anchors`.

    Raises:
        ValueError: naming the prompt that is too long.
    """

    def __init__(self, options: Namespace, sampling: Sampling, records: list[AnchoredPrompt]) -> None:
        super().__init__(
            ModelSource(path=options.policy, dtype=options.dtype, chat_template_kwargs=options.chat_template_kwargs),
            replace(sampling, per_prompt=options.samples),
            records,
            name=options.prompts,
            max_prompt_length=options.max_prompt_length,
            seed=options.seed,
            keep_thoughts=options.keep_thoughts,
        )

    def candidates(self, start: int, number: int, keep_unfinished: bool) -> tuple[list[list[str]], int]:
        """Sample candidates for some prompts, and count those that hit the length limit.

        Candidates that hit the limit are dropped unless all candidates of the prompt did. Empty ones are always
        dropped.
        """
        rollout, samples = self.sample(start, number), self.sampling.per_prompt
        texts, finished = rollout.texts, rollout.finished.tolist()
        found = []
        for first in range(0, len(texts), samples):
            own = list(zip(texts[first : first + samples], finished[first : first + samples], strict=True))
            own = [(text, done) for text, done in own if text]
            whole = [text for text, done in own if done or keep_unfinished]
            found.append(whole or [text for text, _ in own])
        return found, finished.count(False)
