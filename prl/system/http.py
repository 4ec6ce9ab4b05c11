"""Requests to OpenAI-compatible servers, which may be slow, broken or hostile.

A request has one deadline, from connecting to the last byte read, a size limit, and no redirects. A key is sent only if
its variable is named, and only by https or to this machine; no message contains it.
"""

import http.client
import ipaddress
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BufferedReader
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from prl.distributed import collective_timeout

log = logging.getLogger(__name__)

MOST_BYTES = 16 << 20
"""Limit of an answer's size. The token ids and the text of 100,000 tokens are one or two million bytes."""
_AGAIN = (429, 500, 502, 503, 504)
_LONGEST_PAUSE = 30.0
_SHARE = 0.8
"""Share of the collective timeout that requests of this process may take before it joins the others."""


class ServerError(ValueError):
    """Raised when a server gives no usable answer."""


class _Again(Exception):
    """A failed try that may succeed later; reported as a ServerError after the last one."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.pause = reason, pause


# ---- one deadline


class _Clock(threading.local):
    end = float("inf")


_clock = _Clock()
"""Deadline of this thread's request."""


class _TimedIO(socket.SocketIO):
    """Waits for each byte at most until the request's deadline; a socket's own timeout restarts with every byte."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "rb")
        self._given, self._end = sock, _clock.end

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._given.settimeout(left)
        return super().readinto(buffer)


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if isinstance(sock, socket.socket):
            self.fp.close()
            sock._io_refs += 1  # type: ignore[attr-defined]  # as makefile() counts its readers, of which this is one
            self.fp = BufferedReader(_TimedIO(sock))


class _TimedHTTP(HTTPConnection):
    response_class = _TimedResponse


class _TimedHTTPS(HTTPSConnection):
    response_class = _TimedResponse


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _TimedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _TimedHTTPS


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


# ---- addresses and keys


def check_connection(base_url: str, *, concurrency: int, timeout: float, retries: int) -> str:
    """Check the settings of a connection, and return the address without a slash at its end.

    Raises:
        ValueError: for an invalid address, one that may hold a secret, or a number out of range.
    """
    for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0), ("timeout", timeout, 1e-3)):
        if not least <= value < 1e6:
            raise ValueError(f"{name} is {value}; expected at least {least}, and less than a million")
    if not base_url.startswith(("http://", "https://")):
        shown = base_url if "@" not in base_url and "?" not in base_url else "no such address"
        raise ValueError(f"base_url is {shown!r}; expected http://HOST:PORT/v1 or https://...")
    try:
        parts = urlsplit(base_url)
        where, port = parts.hostname, parts.port
    except ValueError:
        where = port = None
    if where is None or not all(33 <= ord(letter) < 127 for letter in base_url):
        raise ValueError("base_url names no host and port; expected http://HOST:PORT/v1 or https://...")
    shown = f"{parts.scheme}://{where}{f':{port}' if port else ''}{parts.path}"
    if "@" in parts.netloc or parts.query or parts.fragment or "?" in base_url or "#" in base_url:
        raise ValueError(
            f"base_url has a name, a password or a query beside the address {shown}; what is secret would be written "
            "into config.yaml. Put the key into an environment variable and name that in api_key_env"
        )
    return base_url.rstrip("/")


def is_loopback(base_url: str) -> bool:
    """Return whether an address is on this machine."""
    try:
        name = urlsplit(base_url).hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_key(base_url: str, variable: str | None) -> str | None:
    """Read the key from an environment variable; None where no variable is named or the variable is not set.

    Raises:
        ValueError: for a key that would be sent unencrypted, or that no header can carry.
    """
    key = (os.environ.get(variable) or "").strip() if variable else ""
    if not key:
        return None
    if not all(33 <= ord(letter) < 127 for letter in key):
        raise ValueError(f"the key in {variable} holds blanks or letters that a header cannot carry; set it anew")
    if base_url.startswith("http://") and not is_loopback(base_url):
        raise ValueError(
            f"the key in {variable} would go to {base_url} for everybody on the way to read; use https, or "
            "api_key_env: null where the server needs none"
        )
    return key


# ---- requests


class Server:
    """A client that repeats requests, with growing pauses, after an error of the connection or the server.

    Args:
        base_url: address from `check_connection`.
        timeout: seconds for one try, from connecting to the last byte.
        retries: further tries.
        concurrency: connections that are kept open.
        api_key_env: environment variable with the key.

    Raises:
        ValueError: for a key that must not be sent.
    """

    def __init__(
        self, base_url: str, *, timeout: float, retries: int, concurrency: int, api_key_env: str | None
    ) -> None:
        self.base_url, self.timeout, self.retries = base_url, timeout, retries
        self._key = read_key(base_url, api_key_env)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(max_retries=0, pool_maxsize=concurrency))

    def ask(
        self,
        url: str,
        body: dict[str, Any] | None,
        read: Callable[[Any], Any] | None = None,
        *,
        end: float | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Post a body, or get a page without one, and read the answer; repeat after errors that may be temporary.

        Args:
            url: address of the request.
            body: sent as JSON.
            read: reads the answer's JSON; a ValueError is a reason to try again. When None, the answer may be anything.
            end: time at which all tries must be over, in `time.monotonic()`; `latest()` when None.
            timeout: seconds, in place of the server's timeout.

        Raises:
            ServerError: when the last try has failed.
        """
        end = latest() if end is None else end
        for number in range(1, self.retries + 2):
            try:
                text = self._once(url, body, min(end, time.monotonic() + (timeout or self.timeout)))
                return None if read is None else _read(_json(text), read)
            except _Again as failed:
                pause = 0.25 * 2**number if failed.pause is None else failed.pause
                pause, reason = min(pause, _LONGEST_PAUSE, self.timeout), failed.reason
            if number > self.retries:
                break
            if time.monotonic() + pause >= end:
                reason += "; there is no time for another try"
                break
            if pause > 5:
                log.warning("%s %s; trying again in %.0f s", url, self._safe(reason), pause)
            time.sleep(pause)
        raise ServerError(f"{url} {self._safe(reason)}" + (f" (tries: {number})" if number > 1 else ""))

    def _once(self, url: str, body: dict[str, Any] | None, end: float) -> bytes:
        left = end - time.monotonic()
        if left <= 0:
            raise ServerError(f"{url} was not asked: the time for all requests of this step is over")
        _clock.end = end
        try:
            with self._session.request(
                "GET" if body is None else "POST",
                url,
                json=body,
                timeout=left,
                stream=True,
                allow_redirects=False,
                auth=self._sign,
                headers={"Accept-Encoding": "identity"},
            ) as answer:
                status, text = answer.status_code, _body(answer)
        except (requests.RequestException, HTTPError, http.client.HTTPException, OSError) as error:
            if time.monotonic() >= end - 1e-3:
                raise _Again(f"did not answer in {left:.3g} s, its whole time") from None
            raise _Again(f"did not answer: {type(error).__name__}: {str(error)[:300]}") from None
        told = text[:200].decode(errors="replace")
        if status in _AGAIN:
            raise _Again(f"answered {status}: {told}", _retry_after(answer.headers.get("Retry-After")))
        if 300 <= status < 400:
            raise ServerError(f"{url} answered {status}, which points elsewhere; give the address itself as base_url")
        if status in (401, 403) and self._key is None:
            told += " (no key was sent; name its environment variable in api_key_env)"
        if status >= 400:
            raise ServerError(f"{url} answered {status}: {self._safe(told)}")
        return text

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the key to a request, and nothing from ~/.netrc."""
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _safe(self, text: str) -> str:
        """Remove the key from a text, because servers may repeat it in their answers."""
        return text.replace(self._key, "***") if self._key else text


def latest() -> float:
    """Return the deadline of requests that begin now, in `time.monotonic()`: other processes wait for this one."""
    waits = collective_timeout()
    return float("inf") if waits is None else time.monotonic() + _SHARE * waits


def _body(answer: requests.Response) -> bytes:
    """Read the bytes of an answer. Raises _Again for one that is too large or compressed, which hides its size."""
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise _Again(f"answered in {coding[:40]!r}, which was not asked for")
    text = bytearray()
    for piece in answer.raw.stream(1 << 16, decode_content=False):
        text += piece
        if len(text) > MOST_BYTES:
            raise _Again(f"answered more than {MOST_BYTES >> 20} MiB")
    return bytes(text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Again(f"answered no JSON ({type(error).__name__}: {str(error)[:100]}): {text[:100]!r}") from None


def _read(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise _Again(f"gave an answer that cannot be used: {error}") from None


def _retry_after(value: str | None) -> float | None:
    """Parse the seconds of a Retry-After header, a number or a date; None for other values."""
    try:
        if value is None or value.strip().isdecimal():
            return None if value is None else float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
