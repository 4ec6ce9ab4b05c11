"""Reward model that calls tools before it scores (Themis)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from prl.config import ModelSource
from prl.data.encoding import ConversationEncoder
from prl.data.marks import encode_content
from prl.data.tokens import left_pad, right_pad
from prl.data.traces import CALL, LEAST_ROOM, OBSERVATION, observation_text
from prl.models.language_scorer import LanguageScorer, load_language_scorer, read_rows, save_score_head
from prl.models.limits import check_fits
from prl.models.loading import freeze, load_tokenizer, save_model
from prl.models.policy import in_own_type
from prl.rewards.base import scores_from_values
from prl.rewards.folder import JUDGE_FILE, discard_passport, judge_folder, read_judge_file
from prl.rewards.per_response import PerResponseReward
from prl.tools.base import Tool, observe
from prl.types import Conversation, Rollout, Scores

KIND = "tool_reward"
"""Kind of its folder."""


class _AfterCall(StoppingCriteria):
    """Stops a row once it has written a call and waits for the answer."""

    def __init__(self, tokenizer: Any, start: int) -> None:
        self.tokenizer, self.start = tokenizer, start

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], clean_up_tokenization_spaces=False)
        return torch.tensor([OBSERVATION in text for text in texts], device=input_ids.device)


class ToolReward(PerResponseReward):
    """Reward r(x, y) of a model that writes about a response, calls tools meanwhile, and then scores it.

    Behind prompt and response the model writes greedily. Where it has written a call ("Action: NAME", "Action Input:
    TEXT", "Observation:", a line each), the tool's answer follows and the model goes on, up to its end of sequence, to
    `max_calls` calls or to `max_trace_tokens`. The score is read behind all of that (Themis, 2310.01045). An error of a
    tool is an answer as well, so a failed call leaves a score. The logs have `tool_calls` and `failed_calls` of each
    response. Trained by `BradleyTerryRewardModule` with `ToolAugmented`; the tools should be those of its traces.

    Args:
        path: folder written by training.
        tools: tools by the names that the model calls them; none is a model that is not to call any.
        max_calls: calls for each response; a further one stays without an answer, and ends the trace.
        max_trace_tokens: tokens of a trace, answers included.
        max_observation: characters of an answer.
        dtype: type of the weights at inference.
        batch_size: responses at a time.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(
        self,
        path: str,
        tools: dict[str, Tool] | None = None,
        max_calls: int = 4,
        max_trace_tokens: int = 256,
        max_observation: int = 200,
        dtype: str = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("max_calls", max_calls, 0),
            ("max_trace_tokens", max_trace_tokens, 0),
            ("max_observation", max_observation, 1),
            ("batch_size", batch_size, 1),
        ):
            if value < least:
                raise ValueError(f"ToolReward.{name} is {value}; expected at least {least}")
        self.path, self.tools, self.dtype, self.batch_size = path, dict(tools or {}), dtype, batch_size
        self.max_calls, self.max_trace_tokens, self.max_observation = max_calls, max_trace_tokens, max_observation
        self.model: Any = None
        # `folder` stays None: a passport measures judges of two responses without tools.

    def model_source(self) -> ModelSource | None:
        """Return the source of the model: its folder."""
        return ModelSource(path=judge_folder(self.path), dtype=self.dtype)  # type: ignore[arg-type]

    def load(self) -> None:
        """Load weights and tokenizer; safe to call twice.

        Raises:
            ValueError: for a folder of another kind, or one whose rows have no room for a trace.
        """
        if self.model is not None:
            return
        source = self.model_source()
        assert source is not None
        settings = read_judge_file(str(source.path))
        if settings["kind"] != KIND:
            raise ValueError(
                f"{self.path} holds a {settings['kind']} judge, not a reward model that calls tools; train one by "
                "BradleyTerryRewardModule with prl.objectives.reward.ToolAugmented, or name another class"
            )
        if self.max_trace_tokens + LEAST_ROOM > settings["max_length"]:
            raise ValueError(
                f"ToolReward.max_trace_tokens is {self.max_trace_tokens}, which leaves no room for a response in the "
                f"max_length of {self.path}, {settings['max_length']}; lower it"
            )
        tokenizer = load_tokenizer(source)
        check_fits(source, tokenizer, settings["max_length"], role="judge", setting=f"max_length in its {JUDGE_FILE}")
        self.encoder = ConversationEncoder(tokenizer, settings["max_length"] - self.max_trace_tokens, "truncate")
        self.model = freeze(load_language_scorer(source, new_head=False))
        self.model.language.generation_config = GenerationConfig()  # not the folder's, which may draw or penalise

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by its score; calls and failed calls are components."""
        prompts = rollout.batch.prompts
        found: list[Tensor] = []

        def values_of(rows: list[int], texts: list[str]) -> Tensor:
            found.append(self.values([prompts[row] for row in rows], texts))
            return found[-1][:, 0]

        scores = scores_from_values(rollout, values_of)
        components = {"tool_calls": found[0][:, 1], "failed_calls": found[0][:, 2]}
        return Scores(scores.rewards, scores.verdict, scores.response_index, components)

    def rewards(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """Compute r(x, y) of each response: [N] float32."""
        return self.values(prompts, responses)[:, 0]

    @torch.no_grad()
    def traces(self, prompts: list[Conversation], responses: list[str]) -> list[str]:
        """Write the trace of each response, with the answers of tools, to look at."""
        assert self.encoder is not None, "call load() first"
        rows = [self.encoder.encode_response(*each) for each in zip(prompts, responses, strict=True)]
        device = next(self.parameters()).device
        with in_own_type(device):
            found = self._written([row["ids"] for row in rows if row], device)
        return [self._text(ids) for ids, _, _ in found]

    def _shape(self) -> tuple[int, ...]:
        return (3,)  # the score, calls, failed calls

    def _read(self, rows: list[dict[str, Any]], device: torch.device) -> Tensor:
        assert self.encoder is not None
        tokenizer = self.encoder.tokenizer
        end = [int(tokenizer.eos_token_id)]
        with in_own_type(device):
            traces = self._written([row["ids"] for row in rows], device)
            whole = [[*row["ids"], *ids, *(end if ids else [])] for row, (ids, _, _) in zip(rows, traces, strict=True)]
            ids, mask = (each.to(device) for each in right_pad(whole, int(tokenizer.pad_token_id)))
            scores = read_rows(self.model, ids, mask, None).logits.float()
        counts = torch.tensor([[calls, failed] for _, calls, failed in traces], device=device, dtype=torch.float32)
        return torch.cat([scores, counts], 1)

    def _written(self, rows: list[list[int]], device: torch.device) -> list[tuple[list[int], int, int]]:
        """Write a trace behind each row: its ids without the end of sequence, its calls, and those that failed."""
        assert self.encoder is not None
        written: list[list[int]] = [[] for _ in rows]
        calls, failed = [0] * len(rows), [0] * len(rows)
        # The last token of the budget is the end of sequence.
        left = {number: self.max_trace_tokens - 1 for number in range(len(rows)) if self.max_trace_tokens > 1}
        while left:
            numbers = list(left)
            more = self._continued([rows[n] + written[n] for n in numbers], max(left.values()), device)
            for number, ids in zip(numbers, more, strict=True):
                ids = ids[: left[number]]
                written[number] += ids
                left[number] -= len(ids)
                call = CALL.search(self._text(ids))
                if call is None or calls[number] == self.max_calls:
                    del left[number]
                    continue
                answer, is_failed = observe(self.tools, call[1].strip(), call[2].strip(), self.max_observation)
                observed = encode_content(self.encoder.tokenizer, observation_text(answer))[: left[number]]
                written[number] += observed
                left[number] -= len(observed)
                calls[number], failed[number] = calls[number] + 1, failed[number] + is_failed
                if left[number] == 0:
                    del left[number]
        return list(zip(written, calls, failed, strict=True))

    def _continued(self, rows: list[list[int]], most: int, device: torch.device) -> list[list[int]]:
        """Write on behind each row, greedily, to the end of sequence, a call or `most` tokens."""
        assert self.encoder is not None
        tokenizer: Any = self.encoder.tokenizer
        end, padding = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
        ids, mask = (each.to(device) for each in left_pad(rows, padding))
        generation = GenerationConfig(do_sample=False, max_new_tokens=most, eos_token_id=end, pad_token_id=padding)
        found = self.model.language.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            generation_config=generation,
            stopping_criteria=StoppingCriteriaList([_AfterCall(tokenizer, ids.shape[1])]),
        )
        return [self._up_to_end(row, end) for row in found[:, ids.shape[1] :].tolist()]

    def _up_to_end(self, ids: list[int], end: int) -> list[int]:
        """Cut what a row wrote before its end of sequence, or up to its call, behind which there is padding."""
        ids = ids[: ids.index(end)] if end in ids else ids
        if OBSERVATION not in self._text(ids):
            return ids
        return next(ids[:length] for length in range(1, len(ids) + 1) if OBSERVATION in self._text(ids[:length]))

    def _text(self, ids: list[int]) -> str:
        assert self.encoder is not None
        tokenizer: Any = self.encoder.tokenizer
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def save_tool_reward(
    folder: str | Path,
    model: LanguageScorer,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    merge: bool = True,
) -> None:
    """Write a folder that `ToolReward` reads: a language model for transformers, its scalar head and its settings.

    Args:
        folder: made if need be.
        model: the model to write.
        tokenizer: written beside it.
        max_length: longest row, tokens.
        merge: that of `save_model`.
    """
    discard_passport(folder)
    save_model(model.language, tokenizer, folder, merge=merge)
    save_score_head(model, folder)
    settings: Mapping[str, Any] = {"kind": KIND, "max_length": max_length}
    (Path(folder) / JUDGE_FILE).write_text(json.dumps(settings, indent=2) + "\n")
