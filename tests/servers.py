"""A server that answers as a test says: byte by byte where it must, and in step with the client's own clock.

No test waits for time to pass. The client looks at its clock when it begins, when it sends and at each piece that
comes; with a `Beat` for a clock these looks are 1, 2, 3, …, and the server sends a piece when the last one was noted.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds after which a test is stuck."""


class Beat:
    """A clock that counts how often it was looked at, and lets a server wait for that."""

    def __init__(self) -> None:
        self.time = 0.0
        self._looked = threading.Semaphore(0)

    def __call__(self) -> float:
        self.time += 1
        self._looked.release()
        return self.time

    async def looked_at(self, times: int = 1) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(times):
            assert await loop.run_in_executor(None, self._looked.acquire, True, _PATIENCE)


@dataclass(frozen=True)
class Received:
    """A request as it came. The names of headers are in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """The way back to the client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._chunked = False
        self.open = True

    async def head(
        self, status: int = 200, kind: str = "text/event-stream", chunked: bool = True, **headers: str
    ) -> None:
        """Begin an answer; one that is not chunked lasts until the connection is closed, or has its own length."""
        self._chunked = chunked
        framing = {"transfer-encoding": "chunked"} if chunked else {}
        lines = {"server": "scripted/1", "content-type": kind, **framing, **headers}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.raw(f"HTTP/1.1 {status} Reason\r\n{text}\r\n".encode())

    async def send(self, data: bytes) -> None:
        """A piece of the body."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        if self._chunked:
            await self.raw(b"0\r\n\r\n")
        else:
            self.close()

    def close(self) -> None:
        """Nothing more comes."""
        self.open = False
        self._writer.close()

    def reset(self) -> None:
        """As a machine that dies; what the client has not read is lost."""
        self.open = False
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def hang(self) -> None:
        """Do nothing until the client has gone."""
        await self._reader.read()
        self.close()


Script = Callable[[Wire], Awaitable[None]]


def streams(*pieces: bytes, beat: Beat | None = None, chunked: bool = True, then: str = "end") -> Script:
    """An answer of events, each piece sent after the one before was noted, if there is a beat.

    Args:
        then: what follows the last piece: `end`, `close`, `reset` or `hang`.
    """

    async def script(wire: Wire) -> None:
        if beat is not None:
            await beat.looked_at(2)
        await wire.head(chunked=chunked)
        for piece in pieces:
            await wire.send(piece)
            if beat is not None:
                await beat.looked_at()
        ended = getattr(wire, then)()
        if ended is not None:
            await ended

    return script


def answers(body: str | dict[str, Any], status: int = 200, kind: str = "application/json", **headers: str) -> Script:
    """An answer that is whole at once."""
    text = body if isinstance(body, str) else json.dumps(body)

    async def script(wire: Wire) -> None:
        length = {"content-length": str(len(text.encode()))}
        await wire.head(status, kind, chunked=False, **length, **headers)
        await wire.raw(text.encode())

    return script


def event(data: dict[str, Any] | str) -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def text(words: str, **more: Any) -> bytes:
    """An event of `/completions`."""
    return event({"choices": [{"index": 0, "text": words, **more}]})


def delta(**more: Any) -> bytes:
    """An event of `/chat/completions`."""
    return event({"choices": [{"index": 0, "delta": more}]})


def usage(prompt_tokens: int, completion_tokens: int, **more: Any) -> bytes:
    """The last event where usage was asked for."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return event({"choices": [], "usage": counts, **more})


DONE = event("[DONE]")


class Server:
    """Answers on a port of its own, in a thread of its own, for as long as it is entered.

    Args:
        respond: what to do with a request.
        port: 0 takes any.
    """

    def __init__(self, respond: Callable[[Received], Script], port: int = 0) -> None:
        self._respond = respond
        self._port = port
        self.received: list[Received] = []
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._talks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def __enter__(self) -> Server:
        self._thread.start()
        self._server = self._await(asyncio.start_server(self._talk, "127.0.0.1", self._port))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._await(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def wait_for_silence(self) -> None:
        """Until no connection is open."""
        self._await(self._silence())

    async def _silence(self) -> None:
        while self._talks:
            await asyncio.sleep(0.001)

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _stop(self) -> None:
        self._server.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await asyncio.sleep(0)
        await self._loop.shutdown_default_executor()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one after the other, until either side closes it."""
        self.connections += 1
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        wire = Wire(reader, writer)
        try:
            while wire.open and (received := await _received(reader)):
                self.received.append(received)
                await self._respond(received)(wire)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test has ended
        finally:
            writer.close()
            self._talks.discard(talk)


async def _received(reader: asyncio.StreamReader) -> Received | None:
    if not (first := await reader.readline()):
        return None
    method, path, _ = first.decode().split()
    headers: dict[str, str] = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        before = f"{headers[name.lower()]}, " if name.lower() in headers else ""
        headers[name.lower()] = before + value.strip()
    return Received(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
