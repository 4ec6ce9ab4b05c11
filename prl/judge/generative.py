"""Generative judge for inference: load, compare, save."""

import json
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prl.config import ModelSource, Reasoning
from prl.data.tokens import EncodingCounts
from prl.judge.base import Comparison, PairwiseJudge
from prl.judge.batched import batched_margins
from prl.judge.encoding import ComparisonEncoder
from prl.judge.files import plain_json, save_judge, saved_template
from prl.judge.kv_cache import PrefixCache, Reading
from prl.judge.reasoning import Reasoner
from prl.judge.reasoning_encoding import reasoning_encoder
from prl.judge.template import REASONING_TEXT, JudgeTemplate, without_thinking
from prl.models.adapters import AdapterOnBase, check_same_base
from prl.models.limits import check_fits
from prl.models.loading import freeze, load_causal_lm, load_tokenizer
from prl.models.location import linked_model
from prl.models.policy import float32_outputs, in_own_type, verdict_margins
from prl.models.prefix_sharing.tree_attention import (
    PrefixSharing,
    SharingMode,
    TokenCounts,
    device_of,
    dtype_of,
)
from prl.rewards.folder import JUDGE_FILE, TEMPLATE_FILE, judge_folder, made_elsewhere, read_judge_file
from prl.rewards.layout import tell_if_layout_matters
from prl.types import Conversation
from prl.verdict import Reasons


class GenerativeJudge(PairwiseJudge):
    """A causal language model that writes a verdict token; its margin is read from the logits (docs/judge.md).

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        max_batch_tokens: padded tokens of one forward pass.
        fused: read shared parts of comparisons (prompt, anchor) once: auto where it pays, on wherever anything is
            shared, off never. The margins do not change (docs/results/fused.md).
        prefix_cache_gib: memory of a cache of keys and values of prompts, and of prompts with their anchor; replaces
            `fused`. No cache when null.
        share_base_model: in a run of PPO, use the policy's base model instead of reading the base model again; `path`
            then holds adapters alone, of the base model that the policy's adapters are on.
        template: how a comparison is put to a model whose folder does not say it, such as an instruct model; the
            default template when null.
        max_length: longest comparison of such a model, tokens; its positions, at most 4096, when null.
        reasoning: sample thoughts before each verdict, by these settings; those of the folder when null, which has
            none unless the judge was trained to reason.

    Raises:
        ValueError: for thoughts together with a prefix cache or on the policy's base model.
    """

    def __init__(
        self,
        path: str,
        dtype: str = "float32",
        max_batch_tokens: int = 16384,
        fused: SharingMode = "auto",
        prefix_cache_gib: float | None = None,
        share_base_model: bool = False,
        template: JudgeTemplate | None = None,
        max_length: int | None = None,
        reasoning: Reasoning | None = None,
    ) -> None:
        super().__init__()
        self.reasoning = reasoning
        self.reasoner: Reasoner | None = None
        self.template, self.max_length = template, max_length
        self.share_base_model = share_base_model
        self.prefix_cache_gib = prefix_cache_gib
        self.prefixes: PrefixCache | None = None
        self._anchors: set[tuple[str, str]] = set()
        self._attached: tuple[torch.nn.Module, str] | None = None
        self.prefix_sharing = PrefixSharing(fused)
        self.path, self.dtype, self.max_batch_tokens = path, dtype, max_batch_tokens
        self.folder = path
        self.model: Any = None
        self.encoder: ComparisonEncoder | None = None
        self.temperature, self.position_offset = 1.0, 0.0
        self._check_arguments()

    def _check_arguments(self) -> None:
        if isinstance(self.template, str):
            raise TypeError(
                "template is a text; give a JudgeTemplate(text) of prl.judge, which also has the verdict words"
            )
        for name in ("prefix_cache_gib", "share_base_model"):
            if self.reasoning is not None and getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)} of a judge that reasons ({self.path}), whose thoughts are "
                    f"sampled by a model of its own without kept keys and values; leave {name} out"
                )

    @property
    def verdict_words(self) -> tuple[str, str]:
        """Verdict words of the template."""
        return self.encoder.template.verdicts if self.encoder is not None else super().verdict_words

    @classmethod
    def from_pretrained(cls, path: str, **options: Any) -> "GenerativeJudge":
        """Load a judge, ready to compare."""
        judge = cls(path, **options)
        judge.load()
        return judge

    def model_source(self) -> ModelSource | None:
        """Return the judge's folder; None where it uses the policy's base model."""
        return None if self.share_base_model else ModelSource(path=judge_folder(self.path), dtype=self.dtype)  # type: ignore[arg-type]

    def attach_policy(self, policy: Any, policy_path: str | None) -> None:
        """Use the policy's base model where `share_base_model` is set; called before `load`.

        Raises:
            ValueError: when the base models or their types differ, or the policy has no adapters.
        """
        if self.share_base_model and self.model is None:
            check_same_base(policy, str(policy_path), judge_folder(self.path))
            found = str(dtype_of(policy)).removeprefix("torch.")
            if found != self.dtype:
                raise ValueError(
                    f"{self.path} is to work in {self.dtype} on the policy's base model, whose weights are {found}; "
                    f"set the judge's dtype to {found}, or share_base_model: false"
                )
            self._attached = (policy, str(policy_path))

    def load(self) -> None:
        """Read weights, tokenizer and template; safe to call twice."""
        if self.model is not None:
            return
        self.folder = judge_folder(self.path)
        written = read_judge_file(self.folder)
        if written["kind"] != "generative":
            raise ValueError(
                f"{self.path} holds a {written['kind']} judge, not a generative one; name the class "
                "BradleyTerryJudge or ScalarReward, or give a causal language model"
            )
        if self.reasoning is None and "reasoning" in written:
            self.reasoning = Reasoning(**written["reasoning"])
            self._check_arguments()
        settings = self._with_own(written)
        source = ModelSource(path=self.folder, dtype=self.dtype)  # type: ignore[arg-type]
        template = saved_template(settings, self.folder)
        tokenizer = load_tokenizer(source)
        trained = (Path(judge_folder(linked_model(self.folder) or self.folder)) / JUDGE_FILE).is_file()
        if "template" not in written or self.template is not None or not trained:
            template = without_thinking(template, tokenizer, sampled=self.reasoning is not None)
        copied = Path(self.folder) / TEMPLATE_FILE
        if copied.is_file() and copied.read_text(encoding="utf-8") != template.text:
            raise ValueError(
                f"{copied} differs from the template in {JUDGE_FILE}, which is the one that is read; the judge knows "
                "only the template that it was trained with, so put the old text back"
            )
        self.encoder = self._build_encoder(source, tokenizer, template, settings["max_length"])
        found = list(self.encoder.verdict_ids)
        trained_so = (self.reasoning is None) == ("reasoning" not in settings)  # words may be other tokens elsewhere
        saved = settings.get("verdict_ids", found) if trained_so else found
        if found != saved:
            raise ValueError(
                f"{self.path}: the tokenizer now writes the verdict words {template.verdicts} as tokens {found}, in "
                f"training they were {saved}; restore the tokenizer that was saved with the judge"
            )
        self.temperature, self.position_offset = settings.get("temperature", 1.0), settings.get("position_offset", 0.0)
        self.model = (
            freeze(load_causal_lm(source)) if self._attached is None else AdapterOnBase(*self._attached, self.folder)
        )
        if made_elsewhere(self.folder, settings) and self._attached is None:
            tell_if_layout_matters(self._first_orders, self.model, self.path, self.dtype)
            self.encoder.counts, self.prefix_sharing.tokens = EncodingCounts(), TokenCounts()
        if self.reasoning is not None:
            self.reasoner = Reasoner(self.reasoning, self.model, tokenizer, self.encoder.compiled)
        if self.prefix_cache_gib is not None:
            sample = self.encoder.compare([{"role": "user", "content": "Which one?"}], "This one.", "That one.")
            assert sample is not None, "a judge cuts, and skips nothing"
            self.encoder.counts = EncodingCounts()  # the trial was no comparison
            self.prefixes = PrefixCache(self.prefix_cache_gib, self.model, sample[0])

    def _build_encoder(
        self, source: ModelSource, tokenizer: PreTrainedTokenizerBase, template: JudgeTemplate, length: int
    ) -> ComparisonEncoder:
        if self.reasoning is None:
            check_fits(source, tokenizer, length, role="judge", setting=f"max_length in its {JUDGE_FILE}")
            return ComparisonEncoder(tokenizer, template, length)
        nobody_chose = self.max_length is None and not (Path(str(self.folder)) / JUDGE_FILE).is_file()
        longest = None if nobody_chose else length
        return reasoning_encoder(source, tokenizer, template, longest, self.reasoning, role="judge")

    def _with_own(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Put the arguments for a model that no judge's folder describes among its settings.

        Raises:
            ValueError: for a folder that names another template or length, with which it was trained or measured.
        """
        described = "template" in settings
        template = self._own_template(described)
        own: dict[str, Any] = {} if template is None else {"template": asdict(template)}
        own = own if self.max_length is None else {**own, "max_length": self.max_length}
        if described and (changed := [name for name, value in own.items() if settings.get(name) != plain_json(value)]):
            raise ValueError(
                f"{changed[0]} is given for the judge in {self.path}, whose {JUDGE_FILE} has another, with which it "
                f"was trained or measured; leave {changed[0]} out, or give the model itself in place of this folder"
            )
        return settings if described else {**settings, **own}

    def _own_template(self, described: bool) -> JudgeTemplate | None:
        """Return the argument, or what asks a model for thoughts whose template is not `described` in its folder."""
        asks = self.template is None and self.reasoning is not None and not described
        return JudgeTemplate(REASONING_TEXT) if asks else self.template

    def _first_orders(self, prompts: list[Conversation], texts: list[str]) -> torch.Tensor:
        return self.margins([(prompt, text, "I do not know.") for prompt, text in zip(prompts, texts, strict=True)])

    def described_otherwise(self) -> dict[str, Any]:
        """Return what the arguments set in place of the folder, in the form of `describe_judge`."""
        described = self.reasoning is None or "template" in read_judge_file(judge_folder(self.path))
        template = self._own_template(described)
        own: dict[str, Any] = {} if template is None else {"template_fingerprint": template.fingerprint}
        own = own if self.reasoning is None else {**own, "reasoning": asdict(self.reasoning)}
        return own if self.max_length is None else {**own, "max_length": self.max_length}

    def truncated_fraction(self) -> float:
        """Return the share of comparisons so far that were longer than the judge's `max_length`."""
        return self.encoder.counts.truncated_fraction if self.encoder is not None else 0.0

    def cached_token_fraction(self) -> float:
        """Return the share of tokens so far that were not computed, because other readings share them."""
        return self.tokens.cached_token_fraction

    def counters(self) -> list[Any]:
        """Return the counts of texts, tokens and thoughts."""
        parts = (self.encoder and self.encoder.counts, self.tokens, self.reasoner and self.reasoner.counts)
        return [each for each in parts if each is not None]

    def numbers(self) -> dict[str, float]:
        """Return the costs of thoughts so far, of a judge that reasons."""
        return {} if self.reasoner is None else self.reasoner.metrics()

    def reasons_of(self, comparisons: list[Comparison]) -> Reasons | None:
        """Return what each thought led to, of comparisons that the last call judged; None of a direct judge."""
        return None if self.reasoner is None else self.reasoner.reasons_of(comparisons)

    def thoughts_kept(self) -> AbstractContextManager[None]:
        """Have readings that come again within think what they thought at first."""
        return super().thoughts_kept() if self.reasoner is None else self.reasoner.thoughts_kept()

    @property
    def tokens(self) -> TokenCounts:
        """Tokens computed so far, and tokens of all comparisons read in full."""
        return self.prefix_sharing.tokens

    def expect(self, prompts: list[Conversation], anchors: list[str]) -> None:
        """Keep prompts with these responses in the prefix cache, where there is one."""
        self._anchors = {(json.dumps(prompt), text) for prompt, text in zip(prompts, anchors, strict=True)}

    @torch.no_grad()
    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        """Compute z(u, v) for each comparison, in batches of like lengths; shared beginnings are computed once.

        The model computes in its own type, in which it was measured; verdict logits are float32.
        """
        assert self.encoder is not None, "call load() first"
        device = device_of(self.model)
        verdict_ids = torch.tensor(self.encoder.verdict_ids, device=device)
        with in_own_type(device), float32_outputs(self.model.get_output_embeddings(), verdict_ids):
            if self.prefixes is not None:
                return self._margins_from_kept(self.prefixes, self.encoder, comparisons)
            rows = [self.encoder.compare(*comparison) for comparison in comparisons]
            readings = [row[0] for row in rows if row]
            encoder = self.encoder

            def read(whole: list[list[int]]) -> torch.Tensor:
                return batched_margins(self.model, whole, encoder, self.max_batch_tokens, self.prefix_sharing)

            if self.reasoner is None:
                found = read(readings)
            else:
                found = self.reasoner.margins(self.model, comparisons, readings, read, self.max_batch_tokens)
            return (found - self.position_offset) / self.temperature

    def _margins_from_kept(
        self, prefixes: PrefixCache, encoder: ComparisonEncoder, comparisons: list[Comparison]
    ) -> torch.Tensor:
        readings = []
        for prompt, first, second in comparisons:
            is_anchor = (json.dumps(prompt), first) in self._anchors
            ids, ends = encoder.with_ends(prompt, first, second, keep_first=is_anchor) or ([], ())
            inside = [end for end in ends if 0 < end < len(ids)]
            readings.append(Reading(ids, tuple(inside or [1])))
        verdict_ids = torch.tensor(encoder.verdict_ids, device=prefixes.device)
        result = torch.empty(len(readings), dtype=torch.float32, device=prefixes.device)
        pad_id = int(encoder.tokenizer.pad_token_id)
        for numbers, logits in prefixes.logits(readings, pad_id, self.max_batch_tokens, self.tokens):
            result[torch.tensor(numbers, device=prefixes.device)] = verdict_margins(logits, verdict_ids)
        return (result - self.position_offset) / self.temperature

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that transformers loads, with the judge's settings beside it."""
        assert self.encoder is not None, "call load() first"
        if self._attached is not None:
            raise ValueError(f"{self.path} works on the policy's base model and has no weights of its own to write")
        save_judge(
            *(folder, self.model, self.encoder.tokenizer, self.encoder),
            temperature=self.temperature,
            position_offset=self.position_offset,
            reasoning=self.reasoning,
        )
