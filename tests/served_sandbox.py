"""The sandbox provider behind HTTP, in a thread of the test."""

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from billing.gateways.standins import sandbox_remote, sandbox_server


@contextmanager
def served_sandbox(book: Path, **options: Any) -> Iterator[str]:
    """Its address. `options`: latency_ms, rate."""

    async def serve() -> asyncio.Server:
        # Made here: SQLite wants the book used by the thread that opened it.
        held = sandbox_server.HeldBook(book)
        return await sandbox_server.serve(
            held, port=0, **{"latency_ms": 0, "rate": None, **options}
        )

    with listening(serve) as port:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            for idle in sandbox_remote._idle.pop((os.getpid(), f"127.0.0.1:{port}"), []):
                idle.close()


@contextmanager
def listening(serve: Any) -> Iterator[int]:
    """The port of a server that `serve` starts, in an event loop of its own."""
    loop = asyncio.new_event_loop()
    create_server, protocols = loop.create_server, []

    async def create_and_remember(factory: Any, *arguments: Any, **options: Any) -> Any:
        def remembered() -> Any:
            protocols.append(factory())
            return protocols[-1]

        return await create_server(remembered, *arguments, **options)

    loop.create_server = create_and_remember
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)

    async def close(server: asyncio.Server) -> None:
        server.close()
        for protocol in protocols:
            protocol._transport.abort()
        # Two rounds of the loop: in the first they are told, in the second their sockets close.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    server = run(serve())
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        run(close(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
