"""Shared parts of the small servers of the tests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JSONHandler(BaseHTTPRequestHandler):
    """Requests and answers are JSON."""

    def body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """With room for connections that wait: the default of five refuses some of a rollout's, each tried again after a
    second."""

    request_queue_size = 128


@contextmanager
def listening(handler: type[JSONHandler], **attributes: Any) -> Iterator[Any]:
    """Serve on a free port, `root`, with attributes that the handler finds; `seen` is an empty list."""
    server: Any = Server(("127.0.0.1", 0), handler)
    vars(server).update(attributes, seen=[], root=f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
