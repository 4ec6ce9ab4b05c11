"""`prl anchors`: write a file of prompts with anchors that a policy made: the best of n samples, or plain samples.

The file goes into `data.init_args.train` of pairwise PPO. Best of n is a knockout tournament under a judge. Where each
anchor comes from stands in OUTPUT.provenance.json, and in the column `anchor_id` of each row.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

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
from prl.system.outputs import check_file, json_with, write_text, writing
from prl.types import PromptBatch


def main(args: list[str]) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser("prl anchors", description=__doc__)
    parser.add_argument(
        "--policy", required=True, help="folder or hub id of the model that answers, usually the SFT one"
    )
    parser.add_argument("--prompts", required=True, help="file or hub id of prompts, in any shape of docs/data.md")
    parser.add_argument(
        "--output", type=Path, required=True, help=".jsonl file to write; must not exist, nor its .provenance.json"
    )
    parser.add_argument("--judge", help="folder or hub id of a judge; needed for more than one sample")
    parser.add_argument("--samples", type=int, default=8, help="responses per prompt; 1 takes it as it is (default 8)")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="length limit of a response (default 256)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampling (default 1)")
    parser.add_argument("--max_prompt_length", type=int, default=1024, help="longest prompt, tokens (default 1024)")
    parser.add_argument("--batch_size", type=int, default=16, help="responses sampled together (default 16)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--limit", type=int, help="read only the first so many prompts")
    parser.add_argument("--split", help="split of a hub data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep_unfinished", action="store_true", help="let responses that hit the length limit enter")
    parser.add_argument(
        "--chat_template_kwargs", type=json.loads, help="variables of the policy's chat template, as JSON"
    )
    parser.add_argument(
        "--keep_thoughts",
        action="store_true",
        help="judge and write what stands before </think> too, not answers alone",
    )
    options = parser.parse_args(args)
    if options.samples > 1 and options.judge is None:
        parser.error("--samples above 1 needs a --judge to choose among them")
    if options.output.exists():
        parser.error(f"--output {options.output} exists; choose another name")
    if options.output.suffix != ".jsonl":
        parser.error(f"--output {options.output}: expected a name that ends in .jsonl")
    own = json_with("prl", "method", "anchor_id")  # of a command that was ended before the anchors were in place
    check_file(provenance_of(options.output), "the description beside --output,", own)
    write_anchors(options)


def write_anchors(options: argparse.Namespace) -> None:
    """Sample, let the samples play, and write rows as they are done; the file gets its name when it is whole.

    Raises:
        DataError: for bad rows of the prompts.
        ValueError: when a model is missing, or a prompt is too long.
    """
    sampling = Sampling(options.max_new_tokens, options.temperature)
    found = load_records(DataSource(options.prompts, options.split, limit=options.limit), AnchoredPrompt)
    sampler = Sampler(options, sampling, found.records)  # checks the length of every prompt
    judge = Judge.from_pretrained(options.judge) if options.judge else None
    provenance = describe(options, sampling, found.report)
    name = hashlib.sha256(as_json(provenance).encode()).hexdigest()[:12]
    unfinished = comparisons = 0
    silent: list[int] = []
    per_batch = max(1, options.batch_size // options.samples)
    starts = range(0, len(found.records), per_batch)
    with writing(options.output) as partial, partial.open("w", encoding="utf-8") as out:
        for start in track(starts, description="anchors"):
            records = found.records[start : start + per_batch]
            candidates, num_open = sampler.candidates(start, len(records), options.keep_unfinished)
            unfinished += num_open
            # Only empty responses: such a row is none that a run would read.
            silent += [start + i for i, texts in enumerate(candidates, 1) if not texts]
            records = [record for record, texts in zip(records, candidates, strict=True) if texts]
            candidates = [texts for texts in candidates if texts]
            for record, champion in zip(records, choose(judge, records, candidates, options.seed + start), strict=True):
                comparisons += champion.num_comparisons
                row = {**record.extra, "prompt": list(record.prompt), "anchor": champion.text, "anchor_id": name}
                out.write(json.dumps({**row, "anchor_win_prob": round(champion.win_prob, 6)}) + "\n")
        provenance |= {"anchor_id": name, "num_comparisons": comparisons}
        provenance |= {"num_unfinished_samples": unfinished, "left_out_prompts": silent}
        write_text(provenance_of(options.output), as_json(provenance))
    print(
        f"wrote {len(found.records) - len(silent)} prompts with anchors to {options.output}: {options.samples} samples "
        f"each, {comparisons} comparisons; {unfinished} samples hit the length limit"
    )
    if silent:
        print(f"left out, since all samples were empty: prompt {', '.join(map(str, silent))}")


def provenance_of(output: Path) -> Path:
    """Where it stands how a file of anchors was made."""
    return output.with_suffix(".provenance.json")


def choose(
    judge: Judge | None, records: list[AnchoredPrompt], candidates: list[list[str]], seed: int
) -> list[Champion]:
    """One response for each prompt."""
    if judge is None:
        return [Champion(texts[0], 0.5, 0) for texts in candidates]
    return knockout([record.prompt for record in records], candidates, judge.model.compare, seed=seed)


def describe(options: argparse.Namespace, sampling: Sampling, report: DataReport) -> dict[str, Any]:
    """What decides the anchors: the same description gives the same file on the same machine."""
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
        "prompts": {"source": report.source, "sha256": report.sha256, "num_kept": report.num_kept},
    }


class Sampler:
    """Responses of one policy to the prompts of a file.

    Raises:
        ValueError: naming the prompt that is too long.
    """

    def __init__(self, options: argparse.Namespace, sampling: Sampling, records: list[AnchoredPrompt]) -> None:
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
        """The samples of some prompts, and how many of them hit the length limit.

        Those that hit it stand aside where another one did not; a prompt whose samples all did keeps them. Empty ones
        never enter.
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
