"""A judge behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted) that returns log-probabilities."""

import logging
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from prl.judge.base import Comparison, PairwiseJudge
from prl.judge.template import JudgeTemplate, render_text
from prl.system.http import Server, check_connection, latest

log = logging.getLogger(__name__)

_HIGHEST = 1e-2
"""Upper bound of a log-probability, which rounding may put above 0."""
_LOWEST = -1e4
"""Lower bound of the log-probability of a possible token; vLLM writes -9999 for an impossible one."""


class EndpointJudge(PairwiseJudge):
    """Margins from the log-probabilities of the two verdict words at the first token of the answer.

    A request that fails `retries` times, or whose answer is malformed or lists neither word among its top tokens, is a
    failed judgement: NaN, left out of the update and counted. Where only one word is listed, the other gets the
    log-probability of the last listed token, an upper bound: leaving such comparisons out would leave out the clearest
    ones.

    Args:
        base_url: URL of the server, up to and including `/v1`.
        model: name of the model on the server.
        template: prompt of a comparison. With `chat` the text goes as a user turn to /chat/completions, and the server
            applies the model's own template; otherwise the plain text goes to /completions.
        top_logprobs: tokens to ask for; servers allow 20 as a rule (OpenAI's /completions 5).
        concurrency: requests under way at a time.
        timeout: seconds for one request, from connecting to the last byte of the answer.
        retries: further tries after an error of the connection or the server, with growing pauses.
        api_key_env: environment variable with the key, which is sent by https or to this machine alone; no key is sent
            when it is null or not set.
        chat_template_kwargs: variables of the model's chat template, such as {enable_thinking: false}, for vLLM and
            SGLang.

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
        api_key_env: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.chat_template_kwargs = chat_template_kwargs
        if top_logprobs < 2:
            raise ValueError(f"top_logprobs is {top_logprobs}; expected at least 2")
        if template.chat and template.answer_prefix:
            raise ValueError("template.answer_prefix cannot be sent to /chat/completions; use chat: false, or drop it")
        self.base_url = check_connection(base_url, concurrency=concurrency, timeout=timeout, retries=retries)
        self.name, self.template = model, template
        self.top_logprobs, self.concurrency = top_logprobs, concurrency
        self.timeout, self.retries, self.api_key_env = timeout, retries, api_key_env
        self._server: Server | None = None
        self._failure: str | None = None
        self.num_bounded = 0
        """Readings so far in which one verdict word was not listed."""

    @property
    def verdict_words(self) -> tuple[str, str]:
        """Verdict words of the template."""
        return self.template.verdicts

    def describe(self) -> dict[str, Any]:
        """Describe what decides a margin, as far as it is known here: the weights behind a server are not."""
        return {
            "kind": "endpoint",
            "base_url": self.base_url,
            "model": self.name,
            "template_fingerprint": self.template.fingerprint,
            "top_logprobs": self.top_logprobs,
            "chat_template_kwargs": self.chat_template_kwargs,
        }

    def load(self) -> None:
        """Open the connection and request one comparison, so that a wrong address or name fails before a rollout.

        Raises:
            ValueError: when the server does not answer.
        """
        if self._server is not None:
            return
        self._server = Server(
            self.base_url,
            timeout=self.timeout,
            retries=self.retries,
            concurrency=self.concurrency,
            api_key_env=self.api_key_env,
        )
        if math.isnan(self._margin((({"role": "user", "content": "Say hello."},), "Hello.", "No."), latest())):
            self._server = None
            raise ValueError(f"the judge at {self.base_url} does not judge: {self._failure}")

    def failure(self) -> str | None:
        """Return the reason of the last failed judgement."""
        return self._failure

    @torch.no_grad()
    def margins(self, comparisons: list[Comparison]) -> Tensor:
        """Request z(u, v) of all comparisons concurrently; NaN where a request failed."""
        assert self._server is not None, "call load() first"
        end = latest()
        with ThreadPoolExecutor(self.concurrency) as pool:
            margins = list(pool.map(lambda comparison: self._margin(comparison, end), comparisons))
        failed = sum(map(math.isnan, margins))
        if failed:
            log.warning("%d of %d judgements failed, the last one: %s", failed, len(margins), self._failure)
        return torch.tensor(margins, dtype=torch.float32)

    def _margin(self, comparison: Comparison, end: float) -> float:
        try:
            return self._read(self._ask(comparison, end))
        except Exception as error:  # an answer may be anything, and must not end the run
            self._failure = f"{type(error).__name__}: {str(error)[:500]}"
            return math.nan

    def _ask(self, comparison: Comparison, end: float) -> Any:
        """Request one answer. Raises ValueError when the server gives none before the end."""
        assert self._server is not None
        text = render_text(self.template, *comparison)
        body: dict[str, Any] = {"model": self.name, "temperature": 0, "max_tokens": 1}
        if self.template.chat:
            path = "/chat/completions"
            body |= {"messages": [{"role": "user", "content": text}]}
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
            if self.chat_template_kwargs is not None:
                body |= {"chat_template_kwargs": self.chat_template_kwargs}
        else:
            path, body = "/completions", body | {"prompt": text + self.template.answer_prefix}
            body |= {"logprobs": self.top_logprobs}
        return self._server.ask(self.base_url + path, body, lambda answer: answer, end=end)

    def _read(self, answer: Any) -> float:
        """Read the margin from an answer.

        Raises ValueError for a malformed answer, or when neither verdict word is listed.
        """
        listed = _listed_tokens(answer, chat=self.template.chat)
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


def _listed_tokens(answer: Any, *, chat: bool) -> list[tuple[str, float]]:
    """List the candidate first tokens of the answer, and their log-probabilities.

    Raises:
        ValueError: when the answer does not hold them in the expected place and types.
    """
    way: tuple[Any, ...] = (
        "choices",
        0,
        "logprobs",
        *(("content", 0, "top_logprobs") if chat else ("top_logprobs", 0)),
    )
    found: Any = answer
    passed = "answer"
    for step in way:
        is_there = isinstance(found, list) and found if step == 0 else isinstance(found, Mapping) and step in found
        if not is_there:
            raise ValueError(f"the {passed} is {str(found)[:100]!r}; expected log-probabilities at {_dots(way)}")
        found, passed = found[step], f"{passed}.{step}"
    if not isinstance(found, list if chat else Mapping) or not found:
        raise ValueError(f"the {passed} is {str(found)[:100]!r}; expected tokens and log-probabilities")
    if isinstance(found, list):
        if not all(isinstance(entry, Mapping) for entry in found):
            raise ValueError(f"the {passed} is {str(found)[:100]!r}; expected entries with token and logprob")
        found = [(entry.get("token"), entry.get("logprob")) for entry in found]
    listed = [_listed(*entry) for entry in (found if chat else found.items())]
    return [(token, value) for token, value in listed if value > -math.inf]  # servers may list impossible tokens


def _listed(token: Any, value: Any) -> tuple[str, float]:
    """Read a token and its log-probability."""
    if not isinstance(token, str):
        raise ValueError(f"a listed token is {str(token)[:60]!r}; expected text")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _HIGHEST:
        raise ValueError(f"the log-probability of {token[:60]!r} is {str(value)[:60]}; expected a number up to 0")
    return token, float(value) if value >= _LOWEST else -math.inf


def _dots(way: tuple[str | int, ...]) -> str:
    return ".".join(map(str, way))


def _logsumexp(values: list[float]) -> float | None:
    """Compute the log of summed probabilities; None without any. `A` and ` A` are two tokens with one meaning."""
    if not values:
        return None
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
