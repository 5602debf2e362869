"""
A cable from one address to another: `python -m tests.hosts.forward FROM:PORT TO:PORT`.

The provider listens on its own host's loopback alone, and is called there alone without encryption. So a
host has its own loopback end of it, and what goes through crosses the network, or does not.
"""

import asyncio
import sys
from contextlib import suppress

SILENT_SECONDS = 10


async def main(listen: str, to: str) -> None:
    host, _, port = listen.rpartition(":")
    target = to.rpartition(":")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                far_reader, far_writer = await asyncio.open_connection(target[0], int(target[2]))
        except (OSError, TimeoutError):
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))

    server = await asyncio.start_server(connected, host, int(port))
    async with server:
        await server.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
