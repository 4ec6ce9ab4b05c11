"""Comparisons as token ids: what to cut when a pair does not fit, and how a batch is padded."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prl.data.records import Conversation, PreferencePair
from prl.data.tokens import EncodingCounts, OnTooLong, TooLongError, encode_content, left_pad
from prl.judge.packing import pack
from prl.judge.template import JudgeTemplate, compile_template, render_conversation


def fit(prompt: list[int], first: list[int], second: list[int], room: int) -> tuple[list[int], list[int], list[int]]:
    """Cut three contents to `room` tokens together.

    Responses lose their ends evenly (the longer one first) down to a third of the room each; then the prompt loses its
    beginning, since its tail holds the question.
    """
    floor = room // 3
    excess = len(prompt) + len(first) + len(second) - room
    lengths = [len(first), len(second)]
    while excess > 0 and max(lengths) > floor:
        longest = lengths.index(max(lengths))
        if lengths[0] == lengths[1]:  # both lose one, or the cut would depend on which is shown first
            lengths = [lengths[0] - 1] * 2
            excess -= 2
        else:
            step = min(excess, lengths[longest] - max(min(lengths), floor))
            lengths[longest] -= step
            excess -= step
    kept = prompt[excess:] if excess > 0 else prompt
    return kept, first[: lengths[0]], second[: lengths[1]]


class ComparisonEncoder:
    """Puts comparisons into the judge's template as token ids.

    Args:
        tokenizer: the judge's tokenizer.
        template: its prompt.
        max_length: longest comparison in tokens, the template included.
        on_too_long: error, truncate (counted), or skip (counted; for training rows only).
        pack_pairs: batches also hold both orders of each pair as one row, for a model that reads shared tokens once.

    Raises:
        VerdictTokenError: when a verdict word is not one token.
        ValueError: when the template alone leaves no room.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: JudgeTemplate,
        max_length: int,
        on_too_long: OnTooLong = "truncate",
        pack_pairs: bool = False,
    ) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.pack_pairs = pack_pairs
        self.max_length, self.on_too_long = max_length, on_too_long
        self.compiled = compile_template(template, tokenizer)
        self.counts = EncodingCounts()
        if max_length - self.compiled.num_literal_tokens < 12:
            raise ValueError(
                f"max_length is {max_length}, but the judge's template alone takes "
                f"{self.compiled.num_literal_tokens} tokens; raise max_length"
            )

    @property
    def verdict_ids(self) -> tuple[int, int]:
        """Token ids of "first is better" and "second is better"."""
        return self.compiled.verdict_ids

    def compare(self, prompt: Conversation, first: str, second: str) -> tuple[list[int], list[int]] | None:
        """Both orders of one comparison as ids, cut alike; None when it is skipped for its length.

        See `_contents` for what is cut.
        """
        contents = self._contents(prompt, first, second)
        if contents is None:
            return None
        prompt_ids, first_ids, second_ids = contents
        return self._assemble(prompt_ids, first_ids, second_ids), self._assemble(prompt_ids, second_ids, first_ids)

    def _contents(self, prompt: Conversation, first: str, second: str) -> list[list[int]] | None:
        """Prompt and responses as ids that fit together; None when the comparison is skipped for its length.

        Raises:
            TooLongError: when it does not fit and `on_too_long` is error.
        """
        texts = (render_conversation(prompt), first, second)
        contents = [encode_content(self.tokenizer, text) for text in texts]
        room = self.max_length - self.compiled.num_literal_tokens
        total = sum(len(ids) for ids in contents)
        self.counts.seen += 1
        if total > room:
            if self.on_too_long == "error":
                raise TooLongError(
                    f"a comparison takes {total + self.compiled.num_literal_tokens} tokens, max_length is "
                    f"{self.max_length} (prompt starts {texts[0][:60]!r}); raise max_length or set on_too_long"
                )
            if self.on_too_long == "skip":
                return None
            self.counts.cut += 1
            contents = list(fit(contents[0], contents[1], contents[2], room))
        return contents

    def _assemble(self, prompt: list[int], response_a: list[int], response_b: list[int]) -> list[int]:
        contents = {"prompt": prompt, "response_a": response_a, "response_b": response_b}
        ids = list(self.compiled.pieces[0])
        for field, piece in zip(self.compiled.fields, self.compiled.pieces[1:], strict=True):
            ids += contents[field]
            ids += piece
        return ids

    def _num_before_responses(self, num_prompt_tokens: int) -> int:
        """Tokens before the first response of an assembled comparison."""
        num_contents = self.compiled.fields.index("prompt") == 0  # the prompt may also stand behind the responses
        pieces = self.compiled.pieces[: 1 + num_contents]
        return sum(len(piece) for piece in pieces) + num_contents * num_prompt_tokens

    def encode(self, pair: PreferencePair) -> dict[str, Any] | None:
        """A preference pair in both orders; None when it is skipped (for its length, or identical after the cut)."""
        contents = self._contents(pair.prompt, pair.chosen, pair.rejected)
        if contents is None:
            return None
        prompt, chosen, rejected = contents
        if chosen == rejected:
            return None
        chosen_first = self._assemble(prompt, chosen, rejected)
        return {
            "chosen_first": chosen_first,
            "rejected_first": self._assemble(prompt, rejected, chosen),
            "num_before_responses": self._num_before_responses(len(prompt)),
            "target": pair.preference,
            "weight": pair.weight,
            "length": len(chosen_first),
        }

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Left-padded batch: the N readings with chosen first, then the same pairs swapped.

        Returns:
            input_ids, attention_mask: [2N, S]; targets, weights: [N]; text_mask: [2N, S] bool, True from the first
            response on; with `pack_pairs` also packed: the 2N readings in N rows (prl/judge/packing.py).
        """
        readings = [row["chosen_first"] for row in rows] + [row["rejected_first"] for row in rows]
        ids, mask = left_pad(readings, int(self.tokenizer.pad_token_id))
        targets = torch.tensor([row["target"] for row in rows], dtype=torch.float32)
        weights = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        # A first token is no text: there is nothing from which it could be predicted.
        before = torch.tensor([max(row["num_before_responses"], 1) for row in rows]).repeat(2)
        text_mask = mask & (mask.cumsum(1) > before[:, None])
        batch: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "text_mask": text_mask,
            "targets": targets,
            "weights": weights,
        }
        if self.pack_pairs:
            both_orders = [[i, i + len(rows)] for i in range(len(rows))]
            batch["packed"] = pack(both_orders, readings, int(self.tokenizer.pad_token_id))
        return batch
