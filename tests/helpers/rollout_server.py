"""A small server that samples like vLLM or SGLang, with transformers, from the model folder it was started on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.helpers.server import JSONHandler, listening


class Handler(JSONHandler):
    def do_GET(self) -> None:
        self.reply(200, {})

    def do_POST(self) -> None:
        body = self.body()
        server: Any = self.server
        server.seen.append((self.path, body))
        with server.lock:  # a draw is a matter of the global generator
            status, answer = server.answers[self.path](body)
        self.reply(status, answer)


class Engine:
    """Weights as they were last read, and what the two kinds of server do with them."""

    def __init__(self, folder: Path, tells_ids: bool, keeps_end: bool) -> None:
        self.folder, self.tells_ids, self.keeps_end = folder, tells_ids, keeps_end
        self.read(folder)

    def read(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder)

    def draw(self, prompt: list[int], limit: int, temperature: float, ends: list[int]) -> tuple[list[int], str]:
        settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "pad_token_id": 0}
        found = self.model.generate(torch.tensor([prompt]), max_new_tokens=limit, eos_token_id=ends, **settings)
        ids = found[0, len(prompt) :].tolist()
        return ids, "stop" if ids[-1] in ends else "length"

    def completions(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        ids, reason = self.draw(body["prompt"], body["max_tokens"], body["temperature"], body["stop_token_ids"])
        end = ids[-1] if reason == "stop" else None
        kept = ids if self.keeps_end or end is None else ids[:-1]
        choice = {"text": "", "finish_reason": reason, "stop_reason": end}
        return 200, {"choices": [{**choice, **({"token_ids": kept} if self.tells_ids else {})}]}

    def generate(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        settings = body["sampling_params"]
        limit, ends = settings["max_new_tokens"], settings["stop_token_ids"]
        ids, reason = self.draw(body["input_ids"], limit, settings["temperature"], ends)
        return 200, {"output_ids": ids, "meta_info": {"finish_reason": {"type": reason, "matched": ids[-1]}}}

    def reload(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["method"] != "reload_weights":
            return 400, {"error": body["method"]}
        self.read(self.folder)
        return 200, {"results": [None]}

    def update(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.read(Path(body["model_path"]))
        return 200, {"success": True}


@contextmanager
def serving(folder: Path, *, tells_ids: bool = True, keeps_end: bool = True) -> Iterator[Any]:
    """Serve on a free port; `seen` holds path and body of each request, `engine` the weights."""
    engine = Engine(folder, tells_ids, keeps_end)
    answers = {
        "/v1/completions": engine.completions,
        "/collective_rpc": engine.reload,
        "/reset_prefix_cache": lambda _: (200, {}),
        "/generate": engine.generate,
        "/update_weights_from_disk": engine.update,
    }
    with listening(Handler, engine=engine, answers=answers, lock=threading.Lock()) as server:
        yield server
