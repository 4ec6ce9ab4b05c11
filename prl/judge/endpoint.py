"""A judge behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted) that returns log-probabilities."""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
import torch
from torch import Tensor

from prl.http import check_connection, open_session
from prl.judge.base import Comparison, PairwiseJudge
from prl.judge.template import JudgeTemplate, render_text

log = logging.getLogger(__name__)


class EndpointJudge(PairwiseJudge):
    """Margins from the log-probabilities of the two verdict words at the first token of the answer.

    A request that fails `retries` times, or whose answer names neither word among its top tokens, is a failed
    judgement: NaN, left out of the update and counted. Where only one word is among them, the other one is known to be
    at most as likely as the last token listed, and that bound takes its place: leaving such comparisons out would leave
    out the clearest ones.

    Args:
        base_url: of the server, up to and with `/v1`.
        model: name of the model there.
        template: how a comparison is put. With `chat` the text goes as a user turn to /chat/completions, and the
            server applies the model's own template; without it as it is to /completions.
        top_logprobs: tokens to ask for; servers allow 20 as a rule (OpenAI's /completions 5).
        concurrency: requests under way at a time.
        timeout: seconds for one request.
        retries: further tries after an error of the connection or the server, with growing pauses.
        api_key_env: environment variable with the key; none is sent when it is not set.

    Raises:
        ValueError: for settings out of range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        template: JudgeTemplate = JudgeTemplate(),  # noqa: B008 - frozen
        top_logprobs: int = 20,
        concurrency: int = 16,
        timeout: float = 60.0,
        retries: int = 3,
        api_key_env: str = "OPENAI_API_KEY",
    ) -> None:
        super().__init__()
        if top_logprobs < 2:
            raise ValueError(f"top_logprobs is {top_logprobs}; expected at least 2")
        if template.chat and template.answer_prefix:
            raise ValueError("template.answer_prefix cannot be sent to /chat/completions; use chat: false, or drop it")
        self.base_url = check_connection(base_url, concurrency=concurrency, timeout=timeout, retries=retries)
        self.name, self.template = model, template
        self.top_logprobs, self.concurrency = top_logprobs, concurrency
        self.timeout, self.retries, self.api_key_env = timeout, retries, api_key_env
        self._session: requests.Session | None = None
        self._failure: str | None = None
        self.num_bounded = 0
        """Readings so far in which one verdict word was below the listed tokens."""

    @property
    def verdict_words(self) -> tuple[str, str]:
        """The template's."""
        return self.template.verdicts

    def load(self) -> None:
        """Open the connection and ask one comparison, so that a wrong address or name shows before a rollout.

        Raises:
            ValueError: when the server does not answer it.
        """
        if self._session is not None:
            return
        self._session = open_session(retries=self.retries, concurrency=self.concurrency, api_key_env=self.api_key_env)
        if math.isnan(self._margin((({"role": "user", "content": "Say hello."},), "Hello.", "No."))):
            self._session = None
            raise ValueError(f"the judge at {self.base_url} does not judge: {self._failure}")

    def failure(self) -> str | None:
        """Why the last failed judgement failed."""
        return self._failure

    @torch.no_grad()
    def margins(self, comparisons: list[Comparison]) -> Tensor:
        """z(u, v) of each comparison, asked side by side; NaN where it failed."""
        assert self._session is not None, "call load() first"
        with ThreadPoolExecutor(self.concurrency) as pool:
            margins = list(pool.map(self._margin, comparisons))
        failed = sum(map(math.isnan, margins))
        if failed:
            log.warning("%d of %d judgements failed, the last one: %s", failed, len(margins), self._failure)
        return torch.tensor(margins, dtype=torch.float32)

    def _margin(self, comparison: Comparison) -> float:
        try:
            return self._read(self._ask(comparison))
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
            self._failure = f"{type(error).__name__}: {error}"
            return math.nan

    def _ask(self, comparison: Comparison) -> dict[str, Any]:
        """The server's answer. Raises RequestException or ValueError when it gives none."""
        assert self._session is not None
        text = render_text(self.template, *comparison)
        body: dict[str, Any] = {"model": self.name, "temperature": 0, "max_tokens": 1}
        if self.template.chat:
            path = "/chat/completions"
            body |= {"messages": [{"role": "user", "content": text}]}
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        else:
            path, body = "/completions", body | {"prompt": text + self.template.answer_prefix}
            body |= {"logprobs": self.top_logprobs}
        answer = self._session.post(self.base_url + path, json=body, timeout=self.timeout)
        if not answer.ok:
            raise ValueError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    def _read(self, answer: dict[str, Any]) -> float:
        """The margin in an answer. Raises ValueError when neither verdict word is listed."""
        listed = _listed_tokens(answer["choices"][0]["logprobs"], chat=self.template.chat)
        wanted = [word.strip() for word in self.template.verdicts]
        words = [_logsumexp([value for token, value in listed if token.strip() == word]) for word in wanted]
        if all(word is None for word in words):
            tokens = ", ".join(repr(token) for token, _ in listed[:5])
            raise ValueError(f"neither {wanted[0]!r} nor {wanted[1]!r} is among the listed tokens {tokens}, ...")
        if any(word is None for word in words):
            self.num_bounded += 1
        least = min(value for _, value in listed)
        first, second = (least if word is None else word for word in words)
        return first - second


def _listed_tokens(logprobs: dict[str, Any], *, chat: bool) -> list[tuple[str, float]]:
    """The tokens that the answer could have begun with, and their log-probabilities."""
    if chat:
        return [(entry["token"], entry["logprob"]) for entry in logprobs["content"][0]["top_logprobs"]]
    return list(logprobs["top_logprobs"][0].items())


def _logsumexp(values: list[float]) -> float | None:
    """log of the summed probabilities; None for none. `A` and ` A` are two tokens with one meaning."""
    if not values:
        return None
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
