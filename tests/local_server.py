"""A small HTTP server on loopback for tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Writes replies, and nothing to the terminal."""

    def reply(self, status: int, payload: bytes, headers: dict | None = None, kind: str = "application/json"):
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Type": kind, "Content-Length": len(payload)}).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args):
        """Nothing on the terminal."""


@contextmanager
def serving(handler: type[Handler]) -> Iterator[ThreadingHTTPServer]:
    """Runs a server in a thread. It has a `lock`, a list `requests` for the handler, and the address `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.lock, server.requests = threading.Lock(), []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
