"""Answers of a judge's server and of a rollout's: a margin, ids of the vocabulary, or a word."""

import json
import math
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prl.config import Sampling
from prl.judge import EndpointJudge, JudgeTemplate
from prl.rollouts.server import RolloutServer
from prl.system.http import Server
from prl.types import PromptBatch
from tests.fuzz import mutated, mutated_value

ENDS, VOCAB, MOST = [1, 2], 50, 4
TOP = [{"token": "A", "logprob": -0.1}, {"token": " B", "logprob": -2.0}]
VALUES: dict[str, Any] = {
    "chat": {"choices": [{"logprobs": {"content": [{"top_logprobs": TOP}]}}]},
    "completions": {"choices": [{"logprobs": {"top_logprobs": [{"A": -0.1, "B": -2.0}]}}]},
    "vllm": {"choices": [{"token_ids": [5, 6, 1], "finish_reason": "stop", "stop_reason": 1}]},
    "sglang": {"output_ids": [5, 6], "meta_info": {"finish_reason": {"type": "stop", "matched": 2}}},
}


@cache
def inputs() -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in VALUES.items()}


def changed(draw: random.Random, good: dict[str, bytes]) -> tuple[str, bytes]:
    name = draw.choice(sorted(good))
    if draw.random() < 0.3:
        return name, mutated(draw, good[name], good[draw.choice(sorted(good))])
    return name, json.dumps(mutated_value(draw, VALUES[name])).encode(errors="replace")


class Numbers:
    """A tokenizer whose text does not matter."""

    pad_token_id = 0

    def decode(self, ids: list[int], **_: object) -> str:
        return str(ids)


@cache
def served() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="prl-fuzz-served-"))
    (folder / "config.json").write_text(json.dumps({"vocab_size": VOCAB}))
    return folder


def answering(body: bytes) -> Server:
    """Connect a client whose server has answered."""
    client = Server("http://h/v1", timeout=1, retries=0, concurrency=1, api_key_env=None)
    client._once = lambda *_: body  # type: ignore[method-assign]
    return client


def read(path: Path) -> None:
    if path.name in ("chat", "completions"):
        judge = EndpointJudge("http://h/v1", "m", JudgeTemplate(chat=path.name == "chat"))
        judge._server = answering(path.read_bytes())
        margin = judge._margin(([{"role": "user", "content": "q"}], "a", "b"), math.inf)
        if not math.isfinite(margin) and not (math.isnan(margin) and judge.failure()):
            raise AssertionError(f"{margin}, since {judge.failure()}")
        return
    server = RolloutServer("http://h/v1", str(served()), path.name)  # type: ignore[arg-type]
    server._opened = answering(path.read_bytes())
    batch = PromptBatch(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.bool), [[]], [("x",)], [{}])
    found = server.sample(batch, Sampling(max_new_tokens=MOST), end_ids=ENDS, tokenizer=Numbers()).response_ids
    if not (0 < found.shape[1] <= MOST and bool(((found >= 0) & (found < VOCAB)).all())):
        raise AssertionError(f"ids {found.tolist()}")
