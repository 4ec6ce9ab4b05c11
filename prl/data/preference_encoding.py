"""Preference pairs for a policy: the prompt once, and each response that an objective reads behind it.

A revision stands behind a prompt of its own, which quotes another response of the pair.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.columns import missing_column, number_tensors, read_number_lists, read_numbers, read_texts
from prl.data.encoding import TurnEncoder
from prl.data.revisions import revision_turns
from prl.data.rows.records import PreferencePair
from prl.data.steps import StepFinder
from prl.data.tokens import OnTooLong, Truncation, pair_tensors, right_pad, settings_hash
from prl.types import Conversation

PROMPT = "prompt."
"""Prefix of the key, in an encoded row, of a prompt that quotes a response."""
COUNT = "count."
"""Prefix of the key, in a batch, of the lengths of a list."""


class PreferenceEncoder(TurnEncoder):
    """Each response of a pair in a row of its own, with the ids of `DemonstrationEncoder`.

    All responses behind one prompt share its ids: where one is so long that the prompt is truncated, it is for all.

    Args:
        tokenizer: the policy's tokenizer.
        max_length: longest prompt and response in tokens.
        on_too_long: error, truncate (counted) or skip (counted), as `ConversationEncoder` has it.
        views: responses that are read: chosen, rejected, and text columns of the rows.
        columns: columns of the rows that hold a number.
        probabilities: those of the columns that hold one from 0 to 1.
        lists: columns that hold a list of texts, each a further response; by name, the columns with a number for each.
        revisions: further views of one of `views` behind a prompt that quotes one of them; by name, both of these.
        revision_prompt: last turn of that prompt, with {prompt} for the last turn of the row's and {response}.
        classes: those of the columns that hold one of n classes, with n.
        step_separator: text that ends a step of a response; None where nothing asks for steps.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
        views: Sequence[str] = ("chosen", "rejected"),
        columns: Sequence[str] = (),
        probabilities: Sequence[str] = (),
        lists: Mapping[str, Sequence[str]] = MappingProxyType({}),
        revisions: Mapping[str, tuple[str, str]] = MappingProxyType({}),
        revision_prompt: str = "",
        classes: Mapping[str, int] = MappingProxyType({}),
        step_separator: str | None = None,
    ) -> None:
        super().__init__(tokenizer, max_length, on_too_long)
        self.steps = None if step_separator is None else StepFinder(tokenizer, step_separator)
        self.views, self.columns, self.probabilities = tuple(views), tuple(columns), tuple(probabilities)
        self.lists = {name: tuple(numbers) for name, numbers in lists.items()}
        self.revisions, self.revision_prompt, self.classes = dict(revisions), revision_prompt, dict(classes)
        quoting = {name: PROMPT + quoted for name, (_, quoted) in self.revisions.items()}
        self.prompts = {**dict.fromkeys(self.views, "prompt"), **quoting, **dict.fromkeys(self.lists, "prompt")}

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""
        revised = [self.revisions, self.revision_prompt] if self.revisions else []
        further = [each for each in (self.probabilities, self.lists, revised, self.classes) if each]
        return settings_hash(super().fingerprint, self.views, self.columns, *further)

    @property
    def declared(self) -> list[str]:
        """Columns of the data that are read beside those of every pair."""
        of_lists = [each for name, numbers in self.lists.items() for each in (name, *numbers)]
        return [*self.views[2:], *self.columns, *of_lists]

    @property
    def id_columns(self) -> list[str]:
        """Keys of an encoded row that hold token ids; those of lists hold a list of ids for each response."""
        return [*dict.fromkeys(self.prompts.values()), *self.prompts]

    def encode(self, record: PreferencePair) -> dict[str, Any] | None:
        """Encode one pair; None where a response is skipped, or chosen and rejected are equal after truncation.

        Raises:
            RowError: for a row that lacks a declared view or column, or whose number cannot be read.
            TooLongError: when a response does not fit and `on_too_long` is error.
        """
        texts = {name: [self._text(record, name)] for name in self.views}
        texts |= {name: read_texts(record, name) for name in self.lists}
        numbers: dict[str, Any] = dict(read_numbers(record, self.columns, self.probabilities, self.classes))
        for name, columns in self.lists.items():
            numbers |= read_number_lists(record, columns, name, len(texts[name]))
        prompts: dict[str, list[int]] = {}
        responses: dict[str, list[list[int]]] = {}
        for key, (prompt, some) in self._behind_each(record.prompt, texts).items():
            if (found := self._behind(prompt, some)) is None:
                return None
            prompts[key] = found[0]
            responses |= found[1]
        if responses["chosen"] == responses["rejected"]:
            self.counts.by_truncation[Truncation.IDENTICAL] += 1
            return None
        return {
            **prompts,
            **{name: ids if name in self.lists else ids[0] for name, ids in responses.items()},
            **numbers,
            "target": record.preference,
            "weight": record.weight,
            "length": max(len(prompts[key]) + max(map(len, responses[name])) for name, key in self.prompts.items()),
        }

    def _behind_each(
        self, prompt: Conversation, texts: dict[str, list[str]]
    ) -> dict[str, tuple[Conversation, dict[str, list[str]]]]:
        """Sort the texts by the prompt that they follow."""
        found: dict[str, tuple[Conversation, dict[str, list[str]]]] = {"prompt": (prompt, texts)}
        for name, (response, quoted) in self.revisions.items():
            turns = revision_turns(prompt, texts[quoted][0], self.revision_prompt)
            found.setdefault(self.prompts[name], (turns, {}))[1][name] = texts[response]
        return found

    def _behind(
        self, prompt: Conversation, texts: Mapping[str, Sequence[str]]
    ) -> tuple[list[int], dict[str, list[list[int]]]] | None:
        """Encode responses behind one prompt, which is cut as for the longest of them; None where one is skipped."""
        prompts, responses = [], {}
        for name, some in texts.items():
            rows = [self.encode_response(prompt, text) for text in some]
            kept = [(row["ids"], len(row["ids"]) - row["num_response"]) for row in rows if row is not None]
            if len(kept) < len(rows):
                return None
            prompts += [ids[:start] for ids, start in kept]
            responses[name] = [ids[start:] for ids, start in kept]
        return min(prompts, key=len), responses

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad responses on the right: [N, S], the B responses of one view after those of another, then lists.

        The responses of a list stand one after the other, pair by pair, as many as each has: `count.NAME` of [B] says
        how many, and `pairs` of [N] whose response each is. Beside input_ids, attention_mask and loss_mask (True on
        responses) there are targets, weights and columns of [B], numbers of lists [B, K]. Where steps are asked for,
        `steps` of [N, S] numbers those of each response.
        """
        each = [
            (number, row[prompt], response)
            for name, prompt in self.prompts.items()
            for number, row in enumerate(rows)
            for response in self._ids(row, name)
        ]
        together = [[*prompt, *response] for _, prompt, response in each]
        ids, mask = right_pad(together, int(self.tokenizer.pad_token_id))
        starts = torch.tensor([len(prompt) for _, prompt, _ in each])
        numbers = [*self.columns, *(name for some in self.lists.values() for name in some)]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "loss_mask": mask & (torch.arange(ids.shape[1]) >= starts[:, None]),
            "pairs": torch.tensor([number for number, *_ in each]),
            **self._steps([prompt for _, prompt, _ in each], [response for *_, response in each]),
            **{COUNT + name: torch.tensor([len(row[name]) for row in rows]) for name in self.lists},
            **number_tensors(rows, numbers),
            **pair_tensors(rows),
        }

    def responses_of(self, row: dict[str, Any]) -> list[list[int]]:
        """List the token ids of all responses of an encoded row."""
        return [ids for name in self.prompts for ids in self._ids(row, name)]

    def _ids(self, row: dict[str, Any], name: str) -> list[list[int]]:
        found: list[list[int]] = row[name] if name in self.lists else [row[name]]
        return found

    def _steps(self, prompts: list[list[int]], responses: list[list[int]]) -> dict[str, Tensor]:
        if self.steps is None:
            return {}
        numbers = map(self.steps.numbers, responses)
        rows = [[0] * len(prompt) + found for prompt, found in zip(prompts, numbers, strict=True)]
        return {"steps": right_pad(rows, 0)[0]}

    def _text(self, record: PreferencePair, name: str) -> str:
        if name in ("chosen", "rejected"):
            return str(getattr(record, name))
        value = record.extra.get(name)
        text = value.strip() if isinstance(value, str) else ""
        if not text:
            raise missing_column(record, name, "non-empty text in every row")
        return text
