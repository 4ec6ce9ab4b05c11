"""Requests end, whatever a server does, and a key goes nowhere but where it was meant for."""

import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from prl import distributed
from prl.distributed import collective_timeout
from prl.judge import EndpointJudge
from prl.rollouts.server import RolloutServer
from prl.system import http
from prl.system.http import Server, ServerError, _TimedIO, check_connection, read_key
from tests.helpers.server import JSONHandler, listening

KEY = "sk-very-secret"


class Handler(JSONHandler):
    protocol_version = "HTTP/1.1"  # which keeps connections

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.body()
        server.seen.append((self.connection, self.headers, body))
        server.act(self)

    def send_slowly(self, start: bytes) -> None:
        """Send a byte now and then, for ever."""
        try:
            self.wfile.write(start)
            while True:
                self.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            self.close_connection = True


Act = Callable[[Handler], None]


@pytest.fixture
def served() -> Iterator[Callable[..., tuple[Server, Any]]]:
    """Connect a client and its server, which does what it is told with each request."""
    with listening(Handler) as listener:

        def serve(act: Act, **settings: Any) -> tuple[Server, Any]:
            listener.act = act
            settings = {"timeout": 20.0, "retries": 0, "concurrency": 2, "api_key_env": None, **settings}
            return Server(f"{listener.root}/v1", **settings), listener

        yield serve


def ask(client: Server, listener: Any, **settings: Any) -> Any:
    return client.ask(f"{listener.root}/v1", {"a": 1}, lambda answer: answer, **settings)


def good(handler: Handler) -> None:
    handler.reply(200, {"fine": True})


def test_connections_are_kept(served) -> None:
    client, listener = served(good)
    assert [ask(client, listener) for _ in range(3)] == [{"fine": True}] * 3
    assert [body for _, _, body in listener.seen] == [{"a": 1}] * 3
    assert len({id(connection) for connection, _, _ in listener.seen}) == 1


def with_headers(status: int, text: bytes, **headers: Any) -> Act:
    def act(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": len(text), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(text)

    return act


HEAD = b"HTTP/1.1 200 OK\r\n"


def cut(handler: Handler) -> None:
    handler.wfile.write(HEAD + b"Content-Length: 50\r\n\r\n{}")
    handler.close_connection = True


ENDLESS: dict[str, tuple[Act, str]] = {
    "status": (lambda handler: handler.send_slowly(b"HTTP/1.1 "), "did not answer in 0.3 s, its whole time"),
    "headers": (lambda handler: handler.send_slowly(HEAD + b"X-A: "), "did not answer in 0.3 s, its whole time"),
    "body": (
        lambda handler: handler.send_slowly(HEAD + b"Content-Length: 99999\r\n\r\n"),
        "did not answer in 0.3 s, its whole time",
    ),
    "size": (with_headers(200, b" " * 70_000 + b"1"), "answered more than 0 MiB"),
    "bomb": (with_headers(200, b"\x1f\x8b", Content_Encoding="gzip"), "answered in 'gzip', which was not asked for"),
    "cut": (cut, "did not answer: ChunkedEncodingError|did not answer: ProtocolError"),
    "no http": (lambda handler: handler.wfile.write(b"\x00\xff\r\n\r\n"), "did not answer: ConnectionError"),
    "no json": (with_headers(200, b"<html>"), r"answered no JSON \(JSONDecodeError: .*'<html>'"),
    "deep": (with_headers(200, b"[" * 30_000), r"answered no JSON \(RecursionError"),
    "letters": (with_headers(200, b'"\xff\xfe"'), r"answered no JSON \(UnicodeDecodeError"),
    "digits": (with_headers(200, b"9" * 5000), r"answered no JSON \(ValueError"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_every_request_ends_with_a_word(name: str, served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 1 << 16)
    act, words = ENDLESS[name]
    client, listener = served(act, timeout=0.3 if "its whole time" in words else 20)
    with pytest.raises(ServerError, match=f"http://127.0.0.1:[0-9]+/v1 {words}"):
        ask(client, listener)


def test_a_read_waits_no_longer_than_the_request_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        theirs.send(b"ab")
        monkeypatch.setattr(http._clock, "end", time.monotonic() + 5)
        assert _TimedIO(ours).readinto(bytearray(1)) == 1
        assert 0 < (ours.gettimeout() or 60) <= 5
        monkeypatch.setattr(http._clock, "end", time.monotonic() - 5)
        with pytest.raises(TimeoutError, match="timed out"):
            _TimedIO(ours).readinto(bytearray(1))


def test_a_pause_that_a_server_asks_for_is_no_longer_than_a_request(served, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(http.time, "sleep", pauses.append)
    for asked in ("3600", "Fri, 31 Dec 9999 23:59:59 GMT", "2", "soon", "-5"):
        answers = iter([with_headers(429, b"", Retry_After=asked), good])
        client, listener = served(lambda handler, answers=answers: next(answers)(handler), retries=1, timeout=20)
        assert ask(client, listener) == {"fine": True}
    assert pauses == [20, 20, 2, 0.5, 0.5]


def test_what_cannot_be_used_is_asked_for_again(served) -> None:
    client, listener = served(lambda handler: handler.reply(200, {"number": len(listener.seen)}), retries=1)

    def second(answer: Any) -> int:
        if answer["number"] < 2:
            raise ValueError("too early")
        return answer["number"]

    assert client.ask(f"{listener.root}/v1", {}, second) == 2
    listener.seen.clear()
    with pytest.raises(ServerError, match=r"gave an answer that cannot be used: never \(tries: 2\)"):
        client.ask(f"{listener.root}/v1", {}, lambda _: (_ for _ in ()).throw(ValueError("never")))


def test_all_tries_end_before_other_processes_give_up(served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, listener = served(lambda handler: handler.send_slowly(b""), timeout=100.0, retries=100)
    monkeypatch.setattr(http, "collective_timeout", lambda: 0.5)
    with pytest.raises(ServerError, match="did not answer in 0.4 s, its whole time; there is no time for another try"):
        ask(client, listener)
    with pytest.raises(ServerError, match="was not asked: the time for all requests of this step is over"):
        ask(client, listener, end=time.monotonic())
    assert len(listener.seen) == 1


def test_the_time_of_other_processes_is_that_of_their_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert collective_timeout() is None
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, timeout=timedelta(seconds=77)
    )
    try:
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        assert collective_timeout() == 77
    finally:
        dist.destroy_process_group()


# ---- keys


def test_a_key_follows_no_redirect_and_stands_in_no_message(served, monkeypatch, caplog) -> None:
    monkeypatch.setattr(http.time, "sleep", lambda _: None)
    monkeypatch.setenv("MY_KEY", KEY)
    with listening(Handler, act=good) as other:
        for status in (301, 302, 307, 308):
            client, listener = served(with_headers(status, b"", Location=f"{other.root}/v1"), api_key_env="MY_KEY")
            with pytest.raises(ServerError, match=f"answered {status}, which points elsewhere"):
                ask(client, listener)
        assert other.seen == []
    assert listener.seen[-1][1]["Authorization"] == f"Bearer {KEY}"
    for status in (401, 503):
        echo = with_headers(status, f"wrong key {KEY}".encode(), Retry_After="9")
        client, listener = served(echo, api_key_env="MY_KEY", retries=1)
        with pytest.raises(ServerError, match=rf"answered {status}: wrong key \*\*\*"):
            ask(client, listener)
    assert KEY not in caplog.text


def test_no_key_is_sent_unless_its_variable_is_named(served, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client, listener = served(with_headers(401, b"who are you"))
    with pytest.raises(
        ServerError, match=r"401: who are you \(no key was sent; name its environment variable in api_k"
    ):
        ask(client, listener)
    assert listener.seen[-1][1]["Authorization"] is None
    for kind, needs in ((EndpointJudge, {"model": "m"}), (RolloutServer, {"folder": "f"})):
        assert kind("https://h/v1", **needs).api_key_env is None


def test_a_key_goes_by_https_or_stays_on_this_machine(monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    for url in ("https://h/v1", "http://localhost:8000/v1", "http://127.0.0.2/v1", "http://[::1]:8000"):
        assert read_key(url, "MY_KEY") == KEY
        assert read_key(url, None) is None
        assert read_key(url, "NOT_SET") is None
    for url in ("http://h/v1", "http://10.0.0.1/v1", "http://localhost.evil.com/v1", "http://127.0.0.1.evil.com"):
        assert read_key(url, None) is None
        with pytest.raises(ValueError, match="the key in MY_KEY would go to .*use https, or api_key_env: null") as told:
            read_key(url, "MY_KEY")
        assert KEY not in str(told.value)
    monkeypatch.setenv("MY_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(ValueError, match="the key in MY_KEY holds blanks") as told:
        read_key("https://h/v1", "MY_KEY")
    assert KEY not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [f"https://me:{KEY}@h/v1", f"https://{KEY}@h/v1", f"https://h/v1?api_key={KEY}", f"https://h/v1#{KEY}"],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    for kind, needs in ((EndpointJudge, {"model": "m"}), (RolloutServer, {"folder": "f"})):
        with pytest.raises(ValueError, match="would be written into config.yaml. Put the key into an env") as told:
            kind(url, **needs)
        assert KEY not in str(told.value)


@pytest.mark.parametrize("url", ["http://", "http://h:port/v1", "http://h:99999/v1", "http://h h/v1", "http://[::1/v1"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="base_url names no host"):
        check_connection(url, concurrency=1, timeout=1.0, retries=0)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 0.0])
def test_a_time_that_is_none_is_named(timeout: float) -> None:
    with pytest.raises(ValueError, match=f"timeout is {timeout}; expected"):
        check_connection("http://h", concurrency=1, timeout=timeout, retries=0)
