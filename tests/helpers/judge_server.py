"""A small server that answers as an OpenAI-compatible one does, with a rule for a model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prl.judge import JudgeTemplate
from tests.helpers.server import JSONHandler, listening

END = "\x1e"
"""Ends each content: random policies write any letter or sign, but no control character."""
TEMPLATE = JudgeTemplate(f"{{{{ prompt }}}}{END}{{{{ response_a }}}}{END}{{{{ response_b }}}}{END}", chat=False)


def answer(first: str, second: str) -> dict[str, float]:
    """Longer is better; words in the responses ask for trouble."""
    if "mumble" in first + second:
        return {"Well": -0.1, "Hmm": -3.0}
    margin = float(len(first) - len(second))
    if "certain" in first:
        return {"A": -0.001, "Hm": -7.0}
    return {"A": -math.log1p(math.exp(-margin)), "B": -math.log1p(math.exp(margin)), "x": -9.0}


class Handler(JSONHandler):
    def do_POST(self) -> None:
        body = self.body()
        server: Any = self.server
        server.seen.append((self.path, body, self.headers.get("Authorization")))
        if server.answer is not None:
            self.reply(200, server.answer)
            return
        chat = self.path.endswith("/chat/completions")
        text = body["messages"][0]["content"] if chat else body["prompt"]
        _, first, second, _ = text.split(END)
        if "busy" in first and len([1 for _, b, _ in server.seen if b == body]) < 3:
            self.reply(503, {"error": "busy"})
            return
        if "broken" in first:
            self.reply(400, {"error": "bad prompt"})
            return
        tokens = answer(first, second)
        if chat:
            top = [{"token": token, "logprob": value} for token, value in tokens.items()]
            logprobs: Any = {"content": [{"top_logprobs": top}]}
        else:
            logprobs = {"top_logprobs": [tokens]}
        self.reply(200, {"choices": [{"logprobs": logprobs}]})


@contextmanager
def serving() -> Iterator[Any]:
    """Serve on a free port; `seen` holds path, body and key of each request, `answer` what all get if it is set."""
    with listening(Handler, answer=None) as server:
        server.url = f"{server.root}/v1"
        yield server
