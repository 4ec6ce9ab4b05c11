"""Connections to OpenAI-compatible servers."""

import os

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry


def check_connection(base_url: str, *, concurrency: int, timeout: float, retries: int) -> str:
    """The address without a slash at its end.

    Raises:
        ValueError: when it is none, or for a number out of range.
    """
    for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0), ("timeout", timeout, 1e-3)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base_url is {base_url!r}; expected http://HOST:PORT/v1 or https://...")
    return base_url.rstrip("/")


def open_session(*, retries: int, concurrency: int, api_key_env: str) -> requests.Session:
    """A session that tries again, with growing pauses, after an error of the connection or the server.

    Args:
        retries: further tries.
        concurrency: connections that are kept open.
        api_key_env: environment variable with the key; none is sent when it is not set.
    """
    again = Retry(retries, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again, pool_maxsize=concurrency))
    if key := os.environ.get(api_key_env):
        session.headers["Authorization"] = f"Bearer {key}"
    return session
