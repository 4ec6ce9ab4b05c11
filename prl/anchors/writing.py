"""Write best-of-n anchors of a policy to a file, for `prl anchors`."""

import hashlib
import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prl import __version__
from prl.anchors.tournament import Champion, knockout
from prl.checkpoints.random_states import forked
from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt, DataSource, RowError, load_records
from prl.data.encoding import PromptEncoder
from prl.data.rows.reading import DataReport
from prl.data.thoughts import opens_thoughts, without_thoughts
from prl.data.tokens import TooLongError
from prl.judge.loading import Judge
from prl.judge.passport import as_json, describe_judge, weights_hash
from prl.models.limits import check_fits
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.rewards.folder import judge_folder
from prl.rollouts.generate import end_token_ids, generate
from prl.system.outputs import write_text, writing
from prl.types import PromptBatch


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


class Sampler:
    """Sampler of one policy's responses to the prompts of a file.

    Raises:
        ValueError: naming the prompt that is too long.
    """

    def __init__(self, options: Namespace, sampling: Sampling, records: list[AnchoredPrompt]) -> None:
        source = ModelSource(
            path=options.policy, dtype=options.dtype, chat_template_kwargs=options.chat_template_kwargs
        )
        self.options, self.sampling = options, sampling
        self.tokenizer = load_tokenizer(source)
        self.encoder = PromptEncoder(self.tokenizer, options.max_prompt_length, needs_anchors=False)
        self.rows = list(self._encoded(records))
        positions = max((row["length"] for row in self.rows), default=0) + options.max_new_tokens
        check_fits(source, self.tokenizer, positions, role="policy", setting="the longest prompt plus --max_new_tokens")
        self.opens_thoughts = opens_thoughts(self.tokenizer)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.policy = load_causal_lm(source).eval().to(device)
        self.device = torch.device(device)
        self.end_ids = end_token_ids(self.policy, self.tokenizer)

    def _encoded(self, records: list[AnchoredPrompt]) -> Iterator[dict[str, Any]]:
        for number, record in enumerate(records, 1):
            try:
                row = self.encoder.encode(record)
            except (TooLongError, RowError) as error:
                raise ValueError(f"prompt {number} of {self.options.prompts}: {error}") from None
            assert row is not None
            yield row

    def candidates(self, start: int, number: int, keep_unfinished: bool) -> tuple[list[list[str]], int]:
        """Sample candidates for some prompts, and count those that hit the length limit.

        Candidates that hit the limit are dropped unless all candidates of the prompt did. Empty ones are always
        dropped.
        """
        samples = self.options.samples
        batch: PromptBatch = self.encoder.collate(self.rows[start : start + number]).to(self.device).repeat(samples)
        with forked(seed=self.options.seed + start):
            rollout = generate(self.policy, self.tokenizer, batch, self.sampling, end_ids=self.end_ids)
        texts = [text.strip() for text in rollout.texts]
        if not self.options.keep_thoughts:
            texts = [without_thoughts(text, opened=self.opens_thoughts) for text in texts]
        finished = rollout.finished.tolist()
        found = []
        for first in range(0, len(texts), samples):
            own = list(zip(texts[first : first + samples], finished[first : first + samples], strict=True))
            own = [(text, done) for text, done in own if text]
            whole = [text for text, done in own if done or keep_unfinished]
            found.append(whole or [text for text, _ in own])
        return found, finished.count(False)
