"""The provider behind HTTP, on this machine only."""

import json
from argparse import ArgumentParser
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from billing.gateways.standins.fakestripe import control, faults, hosted, webhooks
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object
from billing.gateways.standins.fakestripe.provider import Provider, Request

ADDRESS = "127.0.0.1"
PORT = 12111


@dataclass(frozen=True)
class Options:
    """How a provider is started. What is not said stays as the book has it."""

    book: Path
    port: int = PORT
    seed: int | None = None
    faults: str | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = None
    secret_key: str = ""


def add_arguments(parser: ArgumentParser, *, book: Path) -> None:
    """The command line of the provider."""
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
    parser.add_argument("--book", type=Path, default=book, help="its SQLite file")
    parser.add_argument("--seed", type=int, help="of the faults by odds and of the webhooks")
    parser.add_argument(
        "--faults", help="odds, such as drop_before=0.08,execute_then_drop=0.1,500=0.05,slow=0.1:3"
    )
    parser.add_argument("--webhook-url", help="where events go, on this machine")
    parser.add_argument("--webhook-secret", help="what they are signed with")
    parser.add_argument(
        "--secret-key", default="", help="the only key accepted; else any sk_test_… is"
    )


class Server(ThreadingHTTPServer):
    """One thread per connection; the book puts their writing in order."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, options: Options) -> None:
        self.book = Book(options.book)
        with self.book.writing():
            _remember(self.book, options)
        self.provider = Provider(self.book, secret_key=options.secret_key)
        self.courier = webhooks.Courier(self.book)
        super().__init__((ADDRESS, options.port), Handler)
        with self.book.writing():
            # Pages say where the others are.
            self.book.set("hosted_at", self.url)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{ADDRESS}:{self.server_address[1]}"

    def run(self) -> None:
        """Answer until it is stopped, and deliver what is due."""
        self.courier.start()
        try:
            self.serve_forever(poll_interval=0.05)
        finally:
            self.courier.stop()
            self.server_close()
            self.book.close()


class Handler(BaseHTTPRequestHandler):
    """Reads a request, writes its answer in one piece."""

    protocol_version = "HTTP/1.1"
    server_version = "fakestripe"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def _answer(self) -> None:
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if address.path.startswith("/hosted/"):
            self._show(*hosted.answer(self.server.book, self.command, self.path, body))
            return
        if not address.path.startswith("/v1/"):
            status, shown = control.answer(self.server.book, self.command, address.path, body)
            self._write(status, shown, {})
            return
        encoded = "&".join(filter(None, [address.query, body.decode(errors="replace")]))
        request = Request(self.command, address.path, encoded, dict(self.headers.items()))
        reply = self.server.provider.answer(request)
        if reply is None:
            self.close_connection = True
            return
        self._write(reply.status, reply.body, reply.headers)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

    def _write(self, status: int, shown: Object, headers: dict[str, str]) -> None:
        body = json.dumps(shown).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _show(self, status: int, page: str, location: str) -> None:
        body = page.encode()
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Nothing is said on the terminal: the book has it."""


def _remember(book: Book, options: Options) -> None:
    if options.seed is not None:
        book.set("seed", options.seed)
    if options.faults is not None:
        book.set("odds", faults.read_odds(options.faults))
    said = {"url": options.webhook_url, "secret": options.webhook_secret}
    webhooks.configure(book, {name: value for name, value in said.items() if value is not None})
