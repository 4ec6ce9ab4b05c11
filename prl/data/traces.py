"""Traces of reward models that call tools: what they write, what a tool answers, and pairs of responses with them.

A trace is a list of parts, each with the key `text`, which the model writes, or with `action`, `input` and
`observation`: a call that it writes, and the tool's answer, which it reads.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.columns import missing_column
from prl.data.encoding import ScalarPairEncoder
from prl.data.marks import encode_content
from prl.data.rows.records import PreferencePair
from prl.data.rows.row_errors import RowError, shown
from prl.data.tokens import OnTooLong, TooLongError, Truncation, settings_hash

SIDES = ("chosen", "rejected")
OBSERVATION = "Observation:"
"""What the model writes last of a call; the tool's answer follows."""
CALL = re.compile(r"Action:([^\n]*+)\nAction Input:([^\n]*+)\nObservation:")
"""A call as a model writes it: the tool's name and its input, in a line each, with spaces around them."""
LEAST_ROOM = 8
"""Tokens that a trace leaves to prompt and response at least."""
_KEYS = (("text",), ("action", "input", "observation"))


def call_text(action: str, text: str) -> str:
    """Write a call as a model is to write it."""
    return f"Action: {action}\nAction Input: {text}\n{OBSERVATION}"


def observation_text(observation: str) -> str:
    """Write an answer as a model reads it."""
    return f" {observation}\n"


def encode_trace(
    tokenizer: PreTrainedTokenizerBase, trace: Sequence[dict[str, str]], learns_observations: bool = False
) -> tuple[list[int], list[bool]]:
    """Encode the parts of a trace, each apart, so that a token never crosses from what is read to what is written.

    Returns:
        Ids, and whether each is learnt: all but observations, unless `learns_observations`.
    """
    ids: list[int] = []
    learnt: list[bool] = []
    for part in trace:
        texts = (
            [(part["text"], True)]
            if "text" in part
            else [
                (call_text(part["action"], part["input"]), True),
                (observation_text(part["observation"]), learns_observations),
            ]
        )
        for text, is_learnt in texts:
            more = encode_content(tokenizer, text)
            ids, learnt = ids + more, learnt + [is_learnt] * len(more)
    return ids, learnt


def read_trace(record: PreferencePair, name: str) -> list[dict[str, str]]:
    """Read the column of a trace; an empty list is a response without one.

    Raises:
        RowError: for a column that is missing or holds something else.
    """
    expected = "a list of parts in every row, an empty one for none"
    if (trace := record.extra.get(name)) is None:
        raise missing_column(record, name, expected)
    if not isinstance(trace, list):
        raise RowError("no trace", name, shown(trace), expected=expected, fix="Write the file as .jsonl.")
    parts = []
    for number, part in enumerate(trace):
        # A file of one type for each column fills the other keys with null.
        part = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
        if tuple(sorted(part)) not in _KEYS or not all(isinstance(each, str) for each in part.values()):
            fix = "Correct the part, or leave it out."
            wanted = 'texts: {"text": ...} or {"action": ..., "input": ..., "observation": ...}'
            raise RowError("no part of a trace", f"{name}[{number}]", shown(trace[number]), expected=wanted, fix=fix)
        if any("\n" in part.get(key, "") for key in ("action", "input", "observation")):
            fix = "Write it in one line, as the tools answer."
            raise RowError("several lines", f"{name}[{number}]", shown(part), expected="one line each", fix=fix)
        parts.append(part)
    return parts


class TracePairEncoder(ScalarPairEncoder):
    """Preference pairs with a trace of each response, in the columns `chosen_trace` and `rejected_trace`.

    A row is that of `ScalarPairEncoder`, then the trace and another end of sequence; without a trace it is that row.
    The trace is never cut: prompt and response are, to what it leaves of `max_length`.

    Args:
        tokenizer: the model's tokenizer.
        max_length: longest row in tokens.
        on_too_long: error, truncate (counted) or skip (counted), as `ConversationEncoder` has it.
        columns: columns of the rows that hold a number, for the objective.
        learns_observations: whether the answers of tools are learnt too.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
        columns: Sequence[str] = (),
        learns_observations: bool = False,
    ) -> None:
        super().__init__(tokenizer, max_length, on_too_long, columns)
        self.learns_observations = learns_observations

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide what a record is encoded as."""
        return settings_hash(super().fingerprint, "traces", self.learns_observations)

    def encode(self, record: PreferencePair) -> dict[str, Any] | None:
        """Encode both rows of a pair with their traces; None when either is skipped.

        Raises:
            RowError: for a row without traces.
            TooLongError: for a trace that leaves no room.
        """
        row = super().encode(record)
        if row is not None:
            for side, (_, learnt) in zip(SIDES, self._traces_of(record), strict=True):
                row[f"{side}_learnt"] = [False] * (len(row[side]) - len(learnt)) + learnt
        return row

    def _traces_of(self, record: PreferencePair) -> list[tuple[list[int], list[bool]]]:
        """Encode both traces, each with the end of sequence behind it, if there is any."""
        found = []
        for side in SIDES:
            ids, learnt = encode_trace(self.tokenizer, read_trace(record, f"{side}_trace"), self.learns_observations)
            end = [int(self.tokenizer.eos_token_id)] if ids else []
            found.append((ids + end, learnt + [True] * len(end)))
        return found

    def _encode_sides(self, record: PreferencePair) -> list[dict[str, Any] | None]:
        rows: list[dict[str, Any] | None] = []
        for text, (ids, _) in zip((record.chosen, record.rejected), self._traces_of(record), strict=True):
            if len(ids) + LEAST_ROOM > self.max_length and self.on_too_long == "skip":
                self.counts.add(Truncation.TOO_LONG)
                return [None, None]
            if len(ids) + LEAST_ROOM > self.max_length:
                raise TooLongError(
                    f"a trace takes {len(ids)} tokens, which leaves no room in a max_length of {self.max_length}, and "
                    "traces are not cut; raise max_length, or leave such rows out by on_too_long: skip"
                )
            row = self.encode_response(record.prompt, text, reserved=len(ids))
            rows.append(row and {**row, "ids": [*row["ids"], *ids]})
        return rows

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate as `ScalarPairEncoder`, with `learnt` [2N, S] bool: the tokens of traces that the model writes."""
        batch = super().collate(rows)
        _, width = batch["input_ids"].shape
        learnt = [row[f"{side}_learnt"] for side in SIDES for row in rows]
        batch["learnt"] = torch.tensor([each + [False] * (width - len(each)) for each in learnt])
        return batch
