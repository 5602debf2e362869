"""
The sandbox provider as a process of its own, which answers over HTTP on this machine.

    python -m billing.gateways.standins.sandbox_server --book FILE [--port 0] [--latency-ms 200] [--rate 100]

Its first line on standard output is its address, for SANDBOX_URL. Each call takes the latency on the
wire and next to nothing in the book, so that any number can be on their way at once; beyond the rate
it answers 429, as providers do.
"""

import argparse
import asyncio
import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from billing.gateways.base import AttemptSpec, RefundSpec
from billing.gateways.standins.sandbox import SCHEMA, SandboxGateway
from billing.gateways.standins.sandbox_remote import ERRORS

ADDRESS = "127.0.0.1"


class HeldBook(SandboxGateway):
    """The sandbox with its book held open: one process owns it, and answers one call at a time."""

    def __init__(self, book: Path) -> None:
        super().__init__(book, slow_seconds=0)
        book.parent.mkdir(parents=True, exist_ok=True)
        self._held = sqlite3.connect(book, isolation_level=None)
        # A kill of the process loses nothing; that a power cut might, is no promise of a sandbox.
        self._held.execute("PRAGMA journal_mode = WAL")
        self._held.execute("PRAGMA synchronous = OFF")
        for statement in SCHEMA:
            self._held.execute(statement)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._held:
            self._held.execute("BEGIN")
            yield self._held


Call = Callable[[SandboxGateway, dict[str, Any]], Any]
CALLS: dict[str, Call] = {
    "prepare": lambda book, said: book.prepare(AttemptSpec(**said["spec"]), key=said["key"]),
    "submit": lambda book, said: book.submit(said["ref"], key=said["key"]),
    "read": lambda book, said: book.read(said["ref"]),
    "find": lambda book, said: book.find(AttemptSpec(**said["spec"]), since=_time(said["since"])),
    "cancel": lambda book, said: book.cancel(said["ref"], key=said["key"]),
    "refund": lambda book, said: book.refund(RefundSpec(**said["spec"]), key=said["key"]),
    "read_refund": lambda book, said: book.read_refund(said["ref"]),
    "find_refunds": lambda book, said: book.find_refunds(said["payment_ref"]),
    "refunds": lambda book, said: list(book.refunds()),
    "book": lambda book, said: list(book.book()),
    "objects": lambda book, said: list(
        book.objects(since=_time(said.get("since")), until=_time(said.get("until")))
    ),
    "newest": lambda book, said: book.newest(),
}


def answer(book: SandboxGateway, name: str, said: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make one call, and say its result or its error as HTTP and JSON can carry it."""
    try:
        return "200 OK", {"result": _told(CALLS[name](book, said))}
    except tuple(ERRORS.values()) as error:
        return "200 OK", {"error": type(error).__name__, "because": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is: the other end must not wait for ever
        return "500 Internal Server Error", {"because": repr(error)}


def _told(result: Any) -> Any:
    if isinstance(result, list):
        return [_told(each) for each in result]
    assert dataclasses.is_dataclass(result), f"{result!r} is not what a gateway sees"
    return vars(result)


def _time(text: Any) -> Any:
    return datetime.fromisoformat(text) if text else None


class Limit:
    """So many calls a second, with one second's worth at hand; `None`: any number."""

    def __init__(
        self, rate_per_second: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate_per_second
        self.clock = clock
        self.tokens = rate_per_second or 0.0
        self.filled_at = clock()

    def wait_seconds(self) -> float:
        """Take one token: 0, or how long it is until there is one."""
        if self.rate is None:
            return 0.0
        now = self.clock()
        self.tokens = min(self.rate, self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate


class Exchange(asyncio.Protocol):
    """One connection: `POST /call` with a JSON body, answered after the latency; kept open."""

    def __init__(self, book: SandboxGateway, limit: Limit, latency_seconds: float) -> None:
        self._book = book
        self._limit = limit
        self._latency_seconds = latency_seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport), "HTTP runs over a stream"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the request once it is here whole; a client sends the next after our answer."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        self._received = b""
        name = head.split(b" ", 2)[1].decode().strip("/")
        asyncio.get_running_loop().call_later(self._latency_seconds, self._reply, name, body)

    def _reply(self, name: str, body: bytes) -> None:
        wait_seconds = self._limit.wait_seconds()
        if wait_seconds:
            self._send("429 Too Many Requests", {"retry_after_seconds": wait_seconds})
        elif name not in CALLS:
            self._send("404 Not Found", {"error": "Misconfigured", "because": f"no call {name!r}"})
        else:
            self._send(*answer(self._book, name, json.loads(body)))

    def _send(self, status: str, said: dict[str, Any]) -> None:
        body = json.dumps(said, default=_json).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _json(value: Any) -> str:
    assert isinstance(value, datetime), f"{value!r} has no place in an answer"
    return value.isoformat()


async def serve(book: SandboxGateway, *, port: int, latency_ms: float, rate: float | None) -> Any:
    """Listen, and return the server with its port; the caller keeps it alive."""
    limit = Limit(rate)
    return await asyncio.get_running_loop().create_server(
        lambda: Exchange(book, limit, latency_ms / 1000), ADDRESS, port, backlog=1024
    )


def main() -> None:  # pragma: no cover - a process of its own; what it serves is tested in a thread
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--rate", type=float, default=None)
    options = parser.parse_args()

    async def run() -> None:
        server = await serve(
            HeldBook(options.book),
            port=options.port,
            latency_ms=options.latency_ms,
            rate=options.rate,
        )
        port = server.sockets[0].getsockname()[1]
        print(f"http://{ADDRESS}:{port}", flush=True)  # noqa: T201 - whoever started us reads it
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":  # pragma: no cover - as above
    main()
