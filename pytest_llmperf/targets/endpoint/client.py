"""The connection to a server: one event loop, one pool of connections, and nothing read while tokens come."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Failure, Outcome
from pytest_llmperf.targets.endpoint.loop import watched_loop
from pytest_llmperf.targets.endpoint.replies import Reply, complaint, parsed
from pytest_llmperf.targets.protocol import Clock

T = TypeVar("T")
Asked = AbstractAsyncContextManager[aiohttp.ClientResponse]

_KEEP_ALIVE = 3.0
"""Seconds that an idle connection is kept: uvicorn closes its own after 5, and must not do so as a request comes."""
_AT_ONCE = 1 << 16
"""Bytes that asyncio makes room for before it asks the socket. Its own 256 KiB come from the kernel each time, and go
back: 20 µs for a token of 200 bytes."""
_MOST = 1 << 24
"""Bytes of an answer without tokens, and of what an answer says beside them, which may repeat its prompt."""
_MOST_A_TOKEN = 1 << 14
_REFUSALS = {401: Outcome.UNAUTHORIZED, 403: Outcome.UNAUTHORIZED, 404: Outcome.NOT_FOUND, 429: Outcome.RATE_LIMITED}
_HEADERS = {
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",  # a compressor holds tokens back until it has enough of them
}


@dataclass(frozen=True)
class Page:
    """What a server answered to a GET.

    Args:
        server: its software, as its headers have it.
    """

    server: str
    body: bytes

    @property
    def json(self) -> Any:
        """Its body as plain data; None where it is no JSON."""
        return parsed(self.body)


class _Endless(Exception):
    """More comes than was asked for."""


class Client:
    """Speaks HTTP with one server, as many requests at a time as are begun.

    Args:
        url: below which the paths of a dialect are.
        headers: sent with every request; their values are shown nowhere.
        timeout: seconds that a request may take, up to the last piece of its answer.

    Raises:
        UsageError: an event loop is running here already. `run` raises it too.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        _refuse_a_running_loop(url)
        self._url = URL(url.rstrip("/") + "/")
        self._timeout = timeout
        self._secrets = tuple(words for value in headers.values() for words in (value, *value.split()))
        self._loop, self.watch = watched_loop(time.perf_counter)
        self._session = self._loop.run_until_complete(_session(headers, timeout))
        self._finalizer = weakref.finalize(self, _close, self._loop, self._session)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns, run in the client's own loop; nothing that it began goes on after it."""
        living = _with_living_connections(work)
        try:
            _refuse_a_running_loop(str(self._url))
            try:
                return self._loop.run_until_complete(living)
            finally:
                self._loop.run_until_complete(_nothing_left(asyncio.all_tasks(self._loop)))
        finally:  # of what was interrupted before it began, nothing was awaited
            living.close()
            work.close()

    async def post(self, path: str, body: bytes, clock: Clock, output_tokens: int = 0) -> Reply:
        """Ask, and keep what comes with the time of its coming. It raises nothing, whatever the server does.

        Args:
            path: relative to the url; with a slash in front, to its host.
            body: JSON.
            output_tokens: that it asks for: an answer much longer than that is not read to its end.
        """
        reply = Reply(clock(), secrets=self._secrets)

        def sending() -> None:
            reply.sent = clock()

        url = self._url.join(URL(path))
        asked = self._session.post(url, data=body, trace_request_ctx=sending, allow_redirects=False)
        await self._exchange(asked, reply, clock, _MOST + _MOST_A_TOKEN * output_tokens)
        return reply

    async def get(self, path: str) -> Page | Failure:
        """A page of the server, or why there is none."""
        reply = Reply(0.0, secrets=self._secrets)
        asked = self._session.get(self._url.join(URL(path)), allow_redirects=False)
        server = await self._exchange(asked, reply, self._loop.time, _MOST)
        return reply.failure or Page(server, reply.body)

    def close(self) -> None:
        """Let go of its connections and its loop."""
        self._finalizer()

    async def _exchange(self, asked: Asked, reply: Reply, clock: Clock, most: int) -> str:
        """Fill the reply, with so many bytes at most. Returns what the server calls itself."""
        server, answering = "", False
        try:
            async with asked as response:
                server, answering = response.headers.get("Server", ""), True
                if 200 <= response.status < 300:
                    await _keep(response, reply, clock, most)
                else:
                    await _refused(response, reply, clock)
        except _Endless:
            reply.failure = Failure(Outcome.TOO_LONG, f"more than {most >> 20} MiB, and no end")
        except asyncio.TimeoutError:
            reply.failure = reply.failed(Outcome.TIMED_OUT, f"no end within {self._timeout:g} s")
        except aiohttp.ClientConnectorError as error:
            reply.failure = reply.failed(Outcome.UNREACHABLE, str(getattr(error, "os_error", error)))
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            reply.failure = Failure(Outcome.CLOSED, "in mid-answer" if answering else "before an answer")
        except aiohttp.ClientResponseError as error:
            reply.failure = reply.failed(Outcome.MALFORMED, f"no HTTP: {error.message}")
        return server


def _refuse_a_running_loop(url: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        f"{url}: a server is asked in an event loop of its own, and one is running here already; measure in a test "
        f"that is not async, or in a thread: await asyncio.to_thread(…)"
    )


async def _keep(response: aiohttp.ClientResponse, reply: Reply, clock: Clock, most: int) -> None:
    transport = response.connection.transport if response.connection is not None else None
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = _AT_ONCE
    read, keep = response.content.readany, reply.pieces.append
    while piece := await read():
        keep((clock(), piece))
        most -= len(piece)
        if most < 0:
            raise _Endless


async def _refused(response: aiohttp.ClientResponse, reply: Reply, clock: Clock) -> None:
    """Its message may be cut short; that it is a refusal was said before."""
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, _Endless):
        await _keep(response, reply, clock, _MOST)
    status = response.status
    outcome = _REFUSALS.get(status) or (Outcome.SERVER_ERROR if status >= 500 else Outcome.BAD_REQUEST)
    said = complaint(reply.body.decode(errors="replace"))
    moved = f"moved to {response.headers['Location']}" if "Location" in response.headers else ""
    reply.failure = reply.failed(outcome, f"HTTP {status}: {moved or said or response.reason}")


async def _session(headers: Mapping[str, str], timeout: float) -> aiohttp.ClientSession:
    told = aiohttp.TraceConfig()
    told.on_request_chunk_sent.append(_sending)
    every = CIMultiDict(_HEADERS)
    every.update(headers)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, ttl_dns_cache=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=every,
        timeout=aiohttp.ClientTimeout(total=timeout),
        trace_configs=[told],
    )


async def _sending(session: aiohttp.ClientSession, context: SimpleNamespace, chunk: object) -> None:
    """The body goes to the socket now: the connection is there, and what asyncio had to do before is done."""
    if context.trace_request_ctx is not None:  # aiohttp 3.10 tells of the empty body of a GET, too
        context.trace_request_ctx()


async def _with_living_connections(work: Coroutine[Any, Any, T]) -> T:
    """What servers closed while the loop stood still is seen in its first turn, and put away in its second."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return await work


async def _nothing_left(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _close(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    loop.run_until_complete(session.close())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
