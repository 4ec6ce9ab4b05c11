"""Encoding of comparisons: truncation of a pair that does not fit, and padding of batches."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prl.data.columns import number_tensors, read_numbers
from prl.data.fitting import fit_prompt
from prl.data.marks import encode_contents
from prl.data.rows.records import PreferencePair
from prl.data.tokens import (
    EncodingCounts,
    OnTooLong,
    TooLongError,
    Truncation,
    check_one_bos,
    left_pad,
    pair_facts,
    pair_tensors,
    settings_hash,
    tokenizer_hash,
)
from prl.judge.fences import without_fences
from prl.judge.template import JudgeTemplate, compile_template, render_conversation
from prl.models.prefix_sharing.packing import pack
from prl.types import Conversation

LEAST_ROOM = 12
"""Tokens that a comparison must have beside the template: enough to cut prompt and responses without losing one."""


def cut_evenly(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the ends of two responses so that they take `room` tokens together: the longer one first, then both alike.

    The result does not depend on which of them comes first.
    """
    share = room // 2
    return first[: max(share, room - len(second))], second[: max(share, room - len(first))]


class ComparisonEncoder:
    """Puts comparisons into the judge's template as token ids.

    Args:
        tokenizer: the judge's tokenizer.
        template: its prompt.
        max_length: longest comparison in tokens, the template included.
        on_too_long: error, truncate (counted), or skip (counted; for training rows only).
        pack_pairs: batches also hold both orders of each pair as one row, for a model that reads shared tokens once.
        columns: columns of the rows that hold a number, for the objective of its training.
        closing: text behind a thought, of a judge that reasons; readings then end where the thought begins.

    Raises:
        VerdictTokenError: when a verdict word is not one token.
        ValueError: when the template alone leaves no room, or begins with two beginning-of-sequence tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: JudgeTemplate,
        max_length: int,
        on_too_long: OnTooLong = "truncate",
        pack_pairs: bool = False,
        columns: Sequence[str] = (),
        closing: str | None = None,
    ) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.pack_pairs, self.columns = pack_pairs, tuple(columns)
        self.max_length, self.on_too_long = max_length, on_too_long
        self.compiled = compile_template(template, tokenizer, closing)
        check_one_bos(tokenizer, self.compiled.pieces[0], "the judge's template, the chat template")
        self.counts = EncodingCounts()
        needed = self.compiled.num_literal_tokens + LEAST_ROOM
        if max_length < needed:
            raise ValueError(
                f"max_length is {max_length}; the judge's template takes {self.compiled.num_literal_tokens} tokens and "
                f"prompt and responses at least {LEAST_ROOM}, so raise it to {needed} or more"
            )

    @property
    def fingerprint(self) -> str:
        """Hash of all settings that decide what a pair is encoded as, and the verdict words, which attacks hold."""
        template = self.compiled.pieces, self.compiled.fields, self.template.verdicts
        settings = (*template, self.max_length, self.on_too_long, *self.columns)
        return settings_hash(type(self).__name__, tokenizer_hash(self.tokenizer), *settings)

    @property
    def verdict_ids(self) -> tuple[int, int]:
        """Token ids of "first is better" and "second is better"."""
        return self.compiled.verdict_ids

    def compare(self, prompt: Conversation, first: str, second: str) -> tuple[list[int], list[int]] | None:
        """Encode both orders of one comparison, truncated alike; None when it is skipped for its length.

        See `_contents` for the order of truncation.
        """
        contents = self._contents(prompt, first, second)
        if contents is None:
            return None
        prompt_ids, first_ids, second_ids = contents
        return self._assemble(prompt_ids, first_ids, second_ids), self._assemble(prompt_ids, second_ids, first_ids)

    def with_ends(
        self, prompt: Conversation, first: str, second: str, *, keep_first: bool
    ) -> tuple[list[int], tuple[int, ...]] | None:
        """Encode the comparison in this order, and return where its reusable beginnings end; None when skipped.

        Reusable are the prompt, and with `keep_first` the first response, up to the first content that is not.
        """
        contents = self._contents(prompt, first, second)
        if contents is None:
            return None
        ids, lengths, ends, length = self._assemble(*contents), [len(each) for each in contents], [], 0
        for field, piece in zip(self.compiled.fields, self.compiled.pieces, strict=False):
            if field == "response_b" or (field == "response_a" and not keep_first):
                break
            length += len(piece) + lengths[("prompt", "response_a").index(field)]
            ends.append(length)
        return ids, tuple(ends)

    def _contents(self, prompt: Conversation, first: str, second: str) -> list[list[int]] | None:
        """Encode prompt and responses so that they fit together; None when the comparison is skipped for its length.

        The verdict slot and the rest of the template always stay. `fit_prompt` gives the order of truncation; responses
        lose their ends down to a third of the room each before the prompt's last turn is touched.

        Raises:
            TooLongError: when it does not fit and `on_too_long` is error.
        """
        texts = (render_conversation(prompt), first, second)
        ids, first_ids, second_ids = self._encode(*texts)
        room = self.max_length - self.compiled.num_literal_tokens
        total, truncation = len(ids) + len(first_ids) + len(second_ids), Truncation(0)
        if total > room and self.on_too_long == "error":
            raise TooLongError(
                f"a comparison takes {total + self.compiled.num_literal_tokens} tokens, max_length is "
                f"{self.max_length} (prompt starts {texts[0][:60]!r}); raise max_length or set on_too_long"
            )
        if total > room and self.on_too_long == "skip":
            self.counts.add(Truncation.TOO_LONG)
            return None
        if total > room:
            floors = [min(len(response), room // 3) for response in (first_ids, second_ids)]
            ids, truncation = fit_prompt(
                prompt,
                ids,
                lambda messages: self._encode(render_conversation(messages))[0],
                self.tokenizer,
                room=room - len(first_ids) - len(second_ids),
                last_room=room - sum(floors),
            )
        if len(ids) + len(first_ids) + len(second_ids) > room:
            first_ids, second_ids = cut_evenly(first_ids, second_ids, room - len(ids))
            truncation |= Truncation.RESPONSES
        self.counts.add(truncation)
        return [ids, first_ids, second_ids]

    def _encode(self, *texts: str) -> list[list[int]]:
        fenced = [without_fences(self.template.text, text) for text in texts]
        return encode_contents(self.tokenizer, fenced, self.template.text + self.template.answer_prefix)

    def _assemble(self, prompt: list[int], response_a: list[int], response_b: list[int]) -> list[int]:
        contents = {"prompt": prompt, "response_a": response_a, "response_b": response_b}
        ids = list(self.compiled.pieces[0])
        for field, piece in zip(self.compiled.fields, self.compiled.pieces[1:], strict=True):
            ids += contents[field]
            ids += piece
        return ids

    def _num_before_responses(self, num_prompt_tokens: int) -> int:
        """Count the tokens before the first response of an assembled comparison."""
        num_contents = self.compiled.fields.index("prompt") == 0  # the prompt may also stand behind the responses
        pieces = self.compiled.pieces[: 1 + num_contents]
        return sum(len(piece) for piece in pieces) + num_contents * num_prompt_tokens

    def encode(self, pair: PreferencePair) -> dict[str, Any] | None:
        """Encode a preference pair in both orders; None when skipped for its length, or identical after truncation.

        Raises:
            RowError: for a row without a declared column.
        """
        numbers = read_numbers(pair, self.columns)
        contents = self._contents(pair.prompt, pair.chosen, pair.rejected)
        if contents is None:
            return None
        prompt, chosen, rejected = contents
        if chosen == rejected:
            self.counts.by_truncation[Truncation.IDENTICAL] += 1
            return None
        chosen_first = self._assemble(prompt, chosen, rejected)
        return {
            "chosen_first": chosen_first,
            "rejected_first": self._assemble(prompt, rejected, chosen),
            "num_before_responses": self._num_before_responses(len(prompt)),
            **numbers,
            **pair_facts(pair),
            "length": len(chosen_first),
        }

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate a left-padded batch: the N readings with chosen first, then the pairs swapped.

        Returns:
            input_ids, attention_mask: [2N, S]; text_mask: [2N, S] bool, True from the first response on; and
            `pair_tensors` and the declared columns; with `pack_pairs` also packed: the 2N readings in N rows
            (prl.models.prefix_sharing.packing).
        """
        readings = [row["chosen_first"] for row in rows] + [row["rejected_first"] for row in rows]
        ids, mask = left_pad(readings, int(self.tokenizer.pad_token_id))
        # A first token is no text: there is nothing from which it could be predicted.
        before = torch.tensor([max(row["num_before_responses"], 1) for row in rows]).repeat(2)
        text_mask = mask & (mask.cumsum(1) > before[:, None])
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "text_mask": text_mask}
        batch |= number_tensors(rows, self.columns) | pair_tensors(rows)
        if self.pack_pairs:
            both_orders = [[i, i + len(rows)] for i in range(len(rows))]
            batch["packed"] = pack(both_orders, readings, int(self.tokenizer.pad_token_id))
        return batch
