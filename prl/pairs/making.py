"""From prompts to preference rows: sample, compare, choose, check, write."""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt, DataSource, PreferencePair, load_records
from prl.objectives.preference.base import REVISION_PROMPT
from prl.pairs.base import Choice, PairRule
from prl.pairs.beside import Beside, CalibrationSampler, ProposalLogprobs
from prl.pairs.candidates import Candidates, compare_candidates
from prl.pairs.checks import PairChecks
from prl.pairs.parts import Parts, parts_of
from prl.pairs.revising import RevisingSampler, check_revisions
from prl.pairs.rules.best_worst import BestWorst
from prl.pairs.writers import Writers, check_names, mix_of
from prl.rewards.base import RewardSource, load_frozen
from prl.rollouts.prompts import PromptSampler
from prl.run_folder.inputs import Inputs, model_inputs
from prl.system.json_files import read_object
from prl.system.outputs import write_text
from prl.types import Rollout

log = logging.getLogger(__name__)

Row = dict[str, Any]


class PairMaker:
    """Makes preference pairs from a policy's own responses to a file of prompts.

    Args:
        policy: the model that answers.
        prompts: file or hub id of prompts, in any shape of docs/data.md.
        reward: judge or other reward source that compares the responses, in both orders.
        rule: which candidates of a prompt become a pair; the best against the worst when null.
        sampling: length limit, temperature, and candidates of each prompt (`per_prompt`).
        checks: limits on the comparison of a pair's responses.
        labels: hard leaves the pair as chosen and rejected; soft writes the judge's probability too, as `preference`.
        max_prompt_length: longest prompt, tokens.
        batch_size: responses sampled together.
        seed: of all draws.
        keep_thoughts: judge and write what stands before `</think>` too, not answers alone.
        lists: write beside each pair all candidates of its prompt, `responses`, and their rewards, `rewards`.
        proposal_logprobs: write beside the lists the log-probabilities of the candidates under the policy, for BRAIn.
        revisions: how often the policy revises each response before it is a candidate, as policies of SRPO learn to.
        revision_prompt: last turn of a prompt for a revision, with {prompt} and {response}; that of the training.
        calibration: policy of which a further response to each prompt is written, `calibration`, for VPO.
        others: further policies by name, each of which answers as often and revises nothing; rows then name who wrote
            their responses, and the policy itself is `self`.
        written: column of the prompts that holds further responses by the name of who wrote them.

    Raises:
        ValueError: for fewer candidates of a prompt than the rule needs, numbers for lists that are not written, or a
            rule that asks for an unknown policy.
    """

    def __init__(
        self,
        policy: ModelSource,
        prompts: DataSource,
        reward: RewardSource,
        rule: PairRule | None = None,
        sampling: Sampling = Sampling(max_new_tokens=256, per_prompt=5),  # noqa: B008 - frozen
        checks: PairChecks = PairChecks(),  # noqa: B008 - frozen
        labels: Literal["hard", "soft"] = "hard",
        max_prompt_length: int = 1024,
        batch_size: int = 16,
        seed: int = 0,
        keep_thoughts: bool = False,
        lists: bool = False,
        proposal_logprobs: bool = False,
        calibration: ModelSource | None = None,
        revisions: int = 0,
        revision_prompt: str = REVISION_PROMPT,
        others: dict[str, ModelSource] | None = None,
        written: str | None = None,
    ) -> None:
        self.policy, self.prompts, self.reward, self.rule = policy, prompts, reward, rule or BestWorst()
        self.sampling, self.checks, self.labels = sampling, checks, labels
        self.max_prompt_length, self.batch_size, self.seed = max_prompt_length, batch_size, seed
        self.keep_thoughts, self.lists = keep_thoughts, lists
        self.proposal_logprobs, self.calibration = proposal_logprobs, calibration
        self.revisions, self.revision_prompt = revisions, revision_prompt
        check_revisions(revisions, revision_prompt)
        if proposal_logprobs and not lists:
            raise ValueError("proposal_logprobs is set, and lists is not, beside which they are written; set lists too")
        if proposal_logprobs and revisions:
            raise ValueError("proposal_logprobs are those of plain responses, and revisions is set; leave one out")
        if proposal_logprobs and (others or written):
            raise ValueError("proposal_logprobs are those of the policy, and others write too; leave one out")
        self.others, self.written = dict(others or {}), written
        check_names(self.others, self.rule, written)
        if sampling.per_prompt < self.rule.min_candidates and not (self.others or written):
            raise ValueError(
                f"sampling.per_prompt is {sampling.per_prompt}; {type(self.rule).__name__} chooses among at least "
                f"{self.rule.min_candidates} candidates"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")

    def write(self, output: Path, settings: dict[str, Any], part: tuple[int, int] = (0, 1)) -> dict[str, int]:
        """Write the pairs to a .jsonl file, and return the counts.

        Finished parts wait in OUTPUT.parts: a command that was killed goes on from there, to the same file.

        Args:
            output: gets its name when it is complete; OUTPUT.provenance.json beside it says where it comes from.
            settings: everything that decides the rows, as JSON values.
            part: (k, n) takes each n-th prompt from number k on, counted from 0.

        Raises:
            DataError: for bad rows of the prompts.
            ValueError: when a model is missing, a prompt is too long, or the parts were made with other settings.
        """
        found = load_records(self.prompts, AnchoredPrompt)
        records = found.records[part[0] :: part[1]]
        about = {**settings, "part": list(part), "prompts_sha256": found.report.sha256, "inputs": self._inputs()}
        parts, provenance = Parts(parts_of(output), about), output.with_suffix(".provenance.json")
        if output.exists():  # an earlier command was killed behind it, before the last part was deleted
            parts.remove()
            return dict(read_object(provenance)["counts"])
        per_batch = max(1, self.batch_size // self.sampling.per_prompt)
        starts = [start for start in range(0, len(records), per_batch) if not parts.has(start)]
        if starts:
            make = self._maker(records)
            for start in tqdm(starts, desc="pairs", unit="batch"):
                parts.add(start, *make(start, records[start : start + per_batch]))
        counts = parts.counts()
        about |= {"counts": counts, "mix": mix_of(parts.rows(), self.policy)}
        write_text(provenance, json.dumps(about, indent=2) + "\n")
        parts.join(output)
        parts.remove()
        return counts

    def _inputs(self) -> Inputs:
        found = model_inputs("policy", self.policy)
        if self.calibration is not None:
            found |= model_inputs("calibration", self.calibration)
        for name, other in self.others.items():
            found |= model_inputs(f"others.{name}", other)
        for number, source in enumerate(self.reward.leaves()):
            for role, model in source.model_sources().items():
                found |= model_inputs(f"reward{number}{role and '.'}{role}", model)
        return found

    def _maker(self, records: list[AnchoredPrompt]) -> Callable[[int, list[AnchoredPrompt]], tuple[list[Row], Counter]]:
        """Load the models, and return what makes the rows of some prompts."""
        settings: dict[str, Any] = {"name": self.prompts.path, "max_prompt_length": self.max_prompt_length}
        settings |= {"seed": self.seed, "keep_thoughts": self.keep_thoughts}
        sampler = PromptSampler(self.policy, self.sampling, records, **settings)
        others = {
            name: PromptSampler(policy, self.sampling, records, **settings) for name, policy in self.others.items()
        }
        load_frozen(self.reward, sampler.policy, self.policy.path)
        self.reward.to(sampler.device)
        beside = self._beside(sampler, records, settings)
        revising = RevisingSampler(sampler, self.policy, self.revisions, self.revision_prompt)
        writers = Writers(revising, others, records, self.written)

        def make(start: int, part: list[AnchoredPrompt]) -> tuple[list[Row], Counter]:
            counts: Counter[str] = Counter()
            rollout, wrote = self._distinct(*writers.responses(start, len(part)), counts)
            with torch.no_grad():
                found = compare_candidates(self.reward, rollout) if wrote else []
            compared = dict(zip(wrote, found, strict=True))
            if writers.several:
                for place, names in wrote.items():
                    compared[place] = replace(compared[place], sources=tuple(map(tuple, names)))
            rows = []
            further = beside.columns(start, [compared.get(place) for place in range(len(part))])
            for place, (record, columns) in enumerate(zip(part, further, strict=True)):
                own = list(self._pairs_of(compared.get(place), start + place, counts))
                if columns is None:
                    counts["pairs without a calibration response"] += len(own)
                else:
                    rows += [{**self._row(record, compared[place], pair), **columns} for pair in own]
            return rows, counts + Counter(prompts=len(part), pairs=len(rows))

        return make

    def _beside(self, sampler: PromptSampler, records: list[AnchoredPrompt], settings: dict[str, Any]) -> Beside:
        calibration = None
        if self.calibration is not None:
            settings = {**settings, "keep_unfinished": self.checks.keep_unfinished}
            calibration = CalibrationSampler(self.calibration, self.sampling, records, **settings)
        return Beside(calibration, ProposalLogprobs(sampler) if self.proposal_logprobs else None)

    def _distinct(
        self, rollout: Rollout, sources: list[str], counts: Counter[str]
    ) -> tuple[Rollout, dict[int, list[list[str]]]]:
        """Leave out empty, unfinished and repeated responses; return the rest, and by prompt who wrote each of them."""
        seen: dict[tuple[int, str], list[str]] = {}
        rows = []
        groups, finished = rollout.group.tolist(), rollout.finished.tolist()
        for row, text in enumerate(text.strip() for text in rollout.texts):
            counts["responses"] += 1
            if not text:
                counts["responses that are empty"] += 1
            elif not finished[row] and not self.checks.keep_unfinished:
                counts["responses that hit the length limit"] += 1
            elif (groups[row], text) in seen:
                counts["responses equal to another"] += 1
                seen[groups[row], text].append(sources[row])
            else:
                seen[groups[row], text] = [sources[row]]
                rows.append(row)
        wrote: dict[int, list[list[str]]] = {}
        for (group, text), names in seen.items():
            # Of those that wrote one text each time counts: the first of a random order is who it is put down to.
            random.Random(f"{self.seed} {text}").shuffle(names)
            wrote.setdefault(group, []).append(list(dict.fromkeys(names)))
        return rollout.select(torch.tensor(rows, dtype=torch.long)) if rows else rollout, wrote

    def _pairs_of(self, candidates: Candidates | None, number: int, counts: Counter[str]) -> Iterator[Choice]:
        """Choose the pairs of a prompt that nothing speaks against."""
        if candidates is None or len(candidates) < self.rule.min_candidates:
            counts["prompts with too few candidates"] += 1
            return
        if not candidates.judged:
            counts["prompts with a comparison that failed"] += 1
            log.warning("prompt %d has a comparison that failed: %s", number + 1, self.reward.failure())
            return
        generator = torch.Generator().manual_seed(self.seed + number)
        for pair in self.rule.choose(candidates, generator):
            objection = self.checks.objection(candidates, pair)
            if objection is None:
                yield pair
            else:
                counts[f"pairs {objection}"] += 1

    def _row(self, record: AnchoredPrompt, candidates: Candidates, pair: Choice) -> Row:
        """Write a pair as an ordinary preference row, with what SPPO, DNO, BRAIn and TreePO read beside it."""
        rates = candidates.win_rate
        win_prob = float(candidates.win_prob[pair.chosen, pair.rejected])
        # A column of the prompts that preference data reads as a label would label this pair.
        taken = {*PreferencePair.columns, self.written}
        kept = {name: value for name, value in record.extra.items() if name not in taken}
        named = {}
        if candidates.sources:
            named["chosen_source"] = pair.chosen_source or candidates.sources[pair.chosen][0]
            named["rejected_source"] = pair.rejected_source or candidates.sources[pair.rejected][0]
        lists = {"responses": list(candidates.texts), "rewards": candidates.reward.tolist()} if self.lists else {}
        return {
            **kept,
            "prompt": list(record.prompt),
            "chosen": candidates.texts[pair.chosen],
            "rejected": candidates.texts[pair.rejected],
            **({"preference": win_prob} if self.labels == "soft" else {}),
            "chosen_win_rate": float(rates[pair.chosen]),
            "rejected_win_rate": float(rates[pair.rejected]),
            "win_prob": win_prob,
            **named,
            **lists,
        }
