"""From prompts to preference rows or demonstrations: sample, compare, choose, check, write."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt, DataSource, load_records
from prl.objectives.preference.base import REVISION_PROMPT
from prl.pairs.base import CandidateRule, Choice, DemonstrationRule, PairRule
from prl.pairs.beside import Beside, CalibrationSampler, ProposalLogprobs
from prl.pairs.candidates import Candidates, compare_candidates
from prl.pairs.checks import PairChecks
from prl.pairs.directions import Directions
from prl.pairs.parts import Parts, parts_of
from prl.pairs.ranked import check_ranked, compared, deviations, kept, rate_candidates
from prl.pairs.revising import RevisingSampler, check_revisions
from prl.pairs.rows import DEMONSTRATION_FIGURES, LISTS, PAIR_FIGURES, Row, demonstration_row, pair_row
from prl.pairs.rules.best_worst import BestWorst
from prl.pairs.writers import Writers, check_names, distinct, mix_of, read_brought
from prl.rewards.base import RewardSource, load_frozen
from prl.rewards.heron import HERON
from prl.rollouts.prompts import PromptSampler
from prl.run_folder.inputs import Inputs, model_inputs
from prl.system.json_files import read_object
from prl.system.outputs import write_text
from prl.types import Rollout

log = logging.getLogger(__name__)


class PairMaker:
    """Makes preference pairs, or demonstrations, from a policy's own responses to a file of prompts.

    Args:
        policy: the model that answers.
        prompts: file or hub id of prompts, in any shape of docs/data.md.
        reward: judge or other reward source that compares the responses, in both orders.
        rule: which candidates of a prompt become a pair, or a demonstration; the best against the worst when null.
        sampling: length limit, temperature, and candidates of each prompt (`per_prompt`).
        checks: limits on the comparison of a pair's responses.
        labels: hard leaves the pair as chosen and rejected; soft writes the judge's probability too, as `preference`.
        max_prompt_length: longest prompt, tokens.
        batch_size: responses sampled together.
        seed: of all draws.
        keep_thoughts: judge and write what stands before `</think>` too, not answers alone.
        lists: write beside each row all candidates of its prompt, `responses`, and their rewards, `rewards`.
        proposal_logprobs: write beside the lists the log-probabilities of the candidates under the policy, for BRAIn.
        revisions: how often the policy revises each response before it is a candidate, as policies of SRPO learn to.
        revision_prompt: last turn of a prompt for a revision, with {prompt} and {response}; that of the training.
        calibration: policy of which a further response to each prompt is written, `calibration`, for VPO.
        others: further policies by name, each of which answers as often and revises nothing; rows then name who wrote
            their responses, and the policy itself is `self`.
        written: column of the prompts that holds further responses by the name of who wrote them.
        directions: tell the policy in each prompt how to weigh several attributes; the reward reads prompts without.

    Raises:
        ValueError: for fewer candidates of a prompt than the rule needs, numbers for lists that are not written, a rule
            that asks for an unknown policy, or settings that cannot be combined or that its rows have no use for.
    """

    def __init__(
        self,
        policy: ModelSource,
        prompts: DataSource,
        reward: RewardSource,
        rule: CandidateRule | None = None,
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
        directions: Directions | None = None,
    ) -> None:
        self.policy, self.prompts, self.reward = policy, prompts, reward
        self.rule: CandidateRule = rule or BestWorst()
        self.sampling, self.checks, self.labels = sampling, checks, labels
        self.max_prompt_length, self.batch_size, self.seed = max_prompt_length, batch_size, seed
        self.keep_thoughts, self.lists, self.directions = keep_thoughts, lists, directions
        self.proposal_logprobs, self.calibration = proposal_logprobs, calibration
        self.revisions, self.revision_prompt = revisions, revision_prompt
        self.others, self.written = dict(others or {}), written
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self._check_combinations()
        self._check_rule()

    def _check_combinations(self) -> None:
        """Refuse settings of which one would leave another without its meaning."""
        check_revisions(self.revisions, self.revision_prompt)
        if self.proposal_logprobs and not self.lists:
            raise ValueError("proposal_logprobs is set, and lists is not, beside which they are written; set lists too")
        if self.proposal_logprobs and self.revisions:
            raise ValueError("proposal_logprobs are those of plain responses, and revisions is set; leave one out")
        if self.proposal_logprobs and (self.others or self.written):
            raise ValueError("proposal_logprobs are those of the policy, and others write too; leave one out")
        if self._is_ranked:
            check_ranked(self.checks.min_win_prob, soft=self.labels == "soft", lists=self.lists)
        for name in ("calibration", "proposal_logprobs", "revisions", "others", "written"):
            if self.directions is not None and getattr(self, name):
                raise ValueError(
                    f"directions and {name} are both set, and they cannot be combined; leave one of them out"
                )

    def _check_rule(self) -> None:
        """Refuse a rule that lacks the candidates it chooses among, and settings that mean nothing to it."""
        name = type(self.rule).__name__
        check_names(self.others, self.rule, self.written)
        if self.sampling.per_prompt < self.rule.min_candidates and not (self.others or self.written):
            raise ValueError(
                f"sampling.per_prompt is {self.sampling.per_prompt}; {name} chooses among at least "
                f"{self.rule.min_candidates} candidates"
            )
        soft = self.labels == "soft"
        if not isinstance(self.rule, PairRule) and (soft or self.checks.min_win_prob > 0.5):
            setting = "labels: soft" if soft else f"checks.min_win_prob {self.checks.min_win_prob}"
            raise ValueError(f"{setting} is about two responses, and {name} keeps single ones; leave it out")
        for setting in ("calibration", "proposal_logprobs"):
            if getattr(self, setting) and isinstance(self.rule, DemonstrationRule):
                raise ValueError(f"{setting} is of preference pairs, and {name} makes demonstrations; leave it out")

    @property
    def columns(self) -> list[str]:
        """Columns that rows get beside those of a pair or a demonstration; further columns of the prompts stay too."""
        return [
            *(PAIR_FIGURES if isinstance(self.rule, PairRule) else DEMONSTRATION_FIGURES),
            *(LISTS if self.lists else ()),
            *(name for name in ("proposal_logprobs", "calibration") if getattr(self, name)),
            *(("chosen_source", "rejected_source") if self.others or self.written else ()),
            *(("direction",) if self.directions is not None else ()),
            *(("decided_by",) if self._is_ranked and isinstance(self.rule, PairRule) else ()),
        ]

    def write(self, output: Path, settings: dict[str, Any], part: tuple[int, int] = (0, 1)) -> dict[str, int]:
        """Write the rows to a .jsonl file, and return the counts.

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
            for start in tqdm(starts, desc=self.rule.rows, unit="batch"):
                parts.add(start, *make(start, min(per_batch, len(records) - start)))
        counts, rows = parts.counts(), None
        if isinstance(self.reward, HERON):
            rows, decided, about["margins"] = self._ranked_rows(self.reward, parts, records)
            counts |= decided
        about["counts"] = counts
        if isinstance(self.rule, PairRule):
            about["mix"] = mix_of(parts.rows() if rows is None else rows, self.policy)
        write_text(provenance, json.dumps(about, indent=2) + "\n")
        parts.join(output, rows)
        parts.remove()
        return counts

    def _ranked_rows(
        self, source: HERON, parts: Parts, records: list[AnchoredPrompt]
    ) -> tuple[list[Row], Counter[str], dict[str, float]]:
        """Compare the candidates of all parts, whose signals are known now; return rows, counts and margins."""
        thresholds = source.thresholds(deviations(source, parts.rows()))
        asked, rows, counts = self._asked(records), list[Row](), Counter({self.rule.rows: 0})
        for each in parts.rows():
            number = each["number"]
            found = compared(source, each, records[number].prompt, thresholds)
            rows += self._complete_rows(asked[number], found, number, each["columns"], counts)
        counts[self.rule.rows] = len(rows)
        return rows, counts, thresholds

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

    def sampler(self, records: Sequence[AnchoredPrompt], name: str, sampling: Sampling) -> PromptSampler:
        """Load the policy to answer some prompts, each with a direction of its own where there are `directions`.

        Args:
            records: the prompts.
            name: of their file, for errors.
            sampling: of their responses.
        """
        asked = self._asked(records)
        shown = None if asked is records else [record.prompt for record in records]
        return PromptSampler(self.policy, sampling, asked, name=name, shown=shown, **self._settings())

    def _asked(self, records: Sequence[AnchoredPrompt]) -> Sequence[AnchoredPrompt]:
        """Return the prompts as the policy reads them."""
        return records if self.directions is None else self.directions.ask(records, self.seed)

    @property
    def _is_ranked(self) -> bool:
        """Whether comparisons wait for the signals of all candidates."""
        return isinstance(self.reward, HERON)

    def _settings(self) -> dict[str, Any]:
        """Return the settings of every sampler."""
        return {
            "max_prompt_length": self.max_prompt_length,
            "seed": self.seed,
            "keep_thoughts": self.keep_thoughts,
        }

    def _maker(self, records: list[AnchoredPrompt]) -> Callable[[int, int], tuple[list[Row], Counter]]:
        """Load the models, and return what makes the rows of some prompts: the first one's number, and how many."""
        name, brought = self.prompts.path, None
        if self.written is not None:
            brought = read_brought(records, self.written, self.rule, self.others, keep_thoughts=self.keep_thoughts)
        sampler = self.sampler(records, name, self.sampling)
        others = {
            other: PromptSampler(policy, self.sampling, records, name=name, **self._settings())
            for other, policy in self.others.items()
        }
        load_frozen(self.reward, sampler.policy, self.policy.path)
        self.reward.to(sampler.device)
        beside = self._beside(sampler, records)
        revising = RevisingSampler(sampler, self.policy, self.revisions, self.revision_prompt)
        writers = Writers(revising, others, brought)

        def make(start: int, number: int) -> tuple[list[Row], Counter]:
            counts: Counter[str] = Counter()
            responses = writers.responses(start, number)
            rollout, wrote = distinct(*responses, counts, self.seed, keep_unfinished=self.checks.keep_unfinished)
            with torch.no_grad():
                found = self._read_candidates(rollout) if wrote else []
            read = dict(zip(wrote, found, strict=True))
            if writers.several:
                for place, names in wrote.items():
                    read[place] = replace(read[place], sources=tuple(map(tuple, names)))
            rows: list[dict[str, Any]] = []
            further = beside.columns(start, [read.get(place) for place in range(number)])
            asked = sampler.records[start : start + number]
            for place, (record, columns) in enumerate(zip(asked, further, strict=True)):
                candidates = read.get(place)
                if self._is_ranked:
                    rows.append(kept(candidates, start + place, columns))
                else:
                    rows += self._complete_rows(record, candidates, start + place, columns, counts)
            made = {} if self._is_ranked else {self.rule.rows: len(rows)}
            return rows, counts + Counter({"prompts": number, **made})

        return make

    def _read_candidates(self, rollout: Rollout) -> list[Candidates]:
        """Compare the candidates of each prompt, or rate them for a comparison that waits for all others."""
        if isinstance(self.reward, HERON):
            return rate_candidates(self.reward, rollout)
        return compare_candidates(self.reward, rollout)

    def _complete_rows(
        self,
        record: AnchoredPrompt,
        candidates: Candidates | None,
        number: int,
        columns: Row | None,
        counts: Counter[str],
    ) -> list[Row]:
        """Write the rows of a prompt with their further columns; none where these are missing."""
        rows = self._rows_of(record, candidates, number, counts)
        if columns is None:
            counts[f"{self.rule.rows} without a calibration response"] += len(rows)
            return []
        return [{**row, **columns} for row in rows]

    def _beside(self, sampler: PromptSampler, records: list[AnchoredPrompt]) -> Beside:
        calibration = None
        if self.calibration is not None:
            settings = {**self._settings(), "name": self.prompts.path, "keep_unfinished": self.checks.keep_unfinished}
            calibration = CalibrationSampler(self.calibration, self.sampling, records, **settings)
        return Beside(calibration, ProposalLogprobs(sampler) if self.proposal_logprobs else None)

    def _rows_of(
        self, record: AnchoredPrompt, candidates: Candidates | None, number: int, counts: Counter[str]
    ) -> list[Row]:
        """Write what the rule chooses among the candidates of a prompt, and nothing speaks against."""
        if candidates is None or len(candidates) < self.rule.min_candidates:
            counts["prompts with too few candidates"] += 1
            return []
        if not candidates.judged:
            counts["prompts with a comparison that failed"] += 1
            log.warning("prompt %d has a comparison that failed: %s", number + 1, self.reward.failure())
            return []
        generator = torch.Generator().manual_seed(self.seed + number)
        if self.written is not None:  # its texts are candidates now
            extra = {name: value for name, value in record.extra.items() if name != self.written}
            record = replace(record, extra=extra)
        if isinstance(self.rule, DemonstrationRule):
            kept = self.rule.keep(candidates, generator)
            return [demonstration_row(record, candidates, each, lists=self.lists) for each in kept]
        assert isinstance(self.rule, PairRule)
        chosen = self.rule.choose(candidates, generator)
        if not chosen:
            counts["prompts of which the rule chose nothing"] += 1
        pairs = self._without_objection(candidates, chosen, counts)
        soft = self.labels == "soft"
        return [pair_row(record, candidates, pair, soft=soft, lists=self.lists) for pair in pairs]

    def _without_objection(self, candidates: Candidates, pairs: list[Choice], counts: Counter[str]) -> Iterator[Choice]:
        for pair in pairs:
            objection = self.checks.objection(candidates, pair)
            if objection is None:
                if candidates.decided_by:
                    counts[f"pairs decided by {candidates.decided_by[pair.chosen][pair.rejected]}"] += 1
                yield pair
            else:
                counts[f"pairs {objection}"] += 1
