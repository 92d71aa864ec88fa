"""A server whose tokens come when they should, and that knows when it sent each.

It speaks enough of the OpenAI interface for a load generator (`/v1/completions`, `/v1/chat/completions`, streaming
only), takes prompts as ids or text (a word is a token), and sends every token on a schedule that is known beforehand:
a time to the first, then gaps, both with seeded jitter, stalls, and several tokens in a chunk. When it really
sent is logged by the clock that all processes of the machine share, and handed over, once, by `GET /log`.

There is no framework in its way, so that it is lighter than any client: one process, one system call per chunk.

    python benchmarks/paced_server.py [--ttft 0.05] [--gap 0.01] [--jitter 0.5] [--stalls 0.02] [--per-chunk 4]

It prints its port, and serves until it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import json
import os
import random
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODEL = "paced"
STALL = 10.0
"""How many gaps long a stall is."""
TAIL = 0.005
"""Seconds from the last token to the end of the answer: who takes the end for a token is seen to."""
FACTORS = 1 << 16
STRIDE = 7919
"""From where one answer begins in the factors to where the next does: prime, so that none begins where another did."""
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Schedule:
    """When the chunks of an answer are due.

    Args:
        ttft: seconds from the request to the first.
        gap: seconds between chunks.
        jitter: by which share a time is at most longer or shorter.
        stalls: the share of gaps that are ten times as long.
        per_chunk: tokens in each chunk.
    """

    ttft: float = 0.05
    gap: float = 0.01
    jitter: float = 0.0
    stalls: float = 0.0
    per_chunk: int = 1
    seed: int = 0

    def factors(self) -> list[float]:
        """By which the times are multiplied, in the order of their use; answers begin at different places in it."""
        draw = random.Random(self.seed)
        even = (draw.uniform(1 - self.jitter, 1 + self.jitter) for _ in range(FACTORS))
        return [STALL if draw.random() < self.stalls else factor for factor in even]

    @property
    def arguments(self) -> list[str]:
        """As this script takes them."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(self).items()]


@dataclass
class Answer:
    """What was sent for one request, and when.

    Args:
        id: as it stands in each of its events.
        received: when the whole request was there.
        due: when each chunk was to be sent.
        sent: when it was, right before the system call.
        counts: tokens in each.
    """

    id: str
    received: float
    due: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class Paced:
    """What the connections share."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.factors = schedule.factors()
        self.loop = asyncio.get_running_loop()
        self.number = 0
        self.log: list[Answer] = []

    def hand_over(self) -> list[dict[str, Any]]:
        """The log of all whole answers, which begins anew."""
        whole, self.log = self.log, []
        return [dataclasses.asdict(answer) for answer in whole]


class Connection(asyncio.Protocol):
    """One connection, kept alive: a request, its answer, the next request."""

    def __init__(self, paced: Paced) -> None:
        self.paced = paced
        self.buffer = b""
        self.stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.stream is not None:
            self.stream.timer.cancel()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        found = LENGTH.search(head)
        length = int(found[1]) if found else 0
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        method, path, _ = head.split(b" ", 2)
        if method == b"POST" and path.endswith(b"/completions"):
            self.stream = Stream(self, now, json.loads(rest[:length]), chat=path.endswith(b"/chat/completions"))
        else:
            self.plain(path.decode())

    def plain(self, path: str) -> None:
        """Answer with everything at once."""
        if path.endswith("/models"):
            self.reply({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": MODEL}]})
        elif path == "/log":
            self.reply(self.paced.hand_over())
        elif path in ("/", "/health"):
            self.reply({})
        else:
            self.reply({"error": {"message": f"nothing at {path}"}}, "404 Not Found")

    def reply(self, value: Any, status: str = "200 OK") -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def framed(*events: bytes) -> bytes:
    """Server-sent events as one chunk of the transfer."""
    body = b"".join(b"data: %b\n\n" % event for event in events)
    return b"%x\r\n%b\r\n" % (len(body), body)


def prompt_length(asked: Mapping[str, Any]) -> int:
    prompt = asked.get("prompt", "")
    if "messages" in asked:
        prompt = " ".join(text_of(message.get("content") or "") for message in asked["messages"])
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    return len(prompt.split()) if isinstance(prompt, str) else len(prompt)


def text_of(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


class Stream:
    """One answer, on its way."""

    def __init__(self, connection: Connection, received: float, asked: Mapping[str, Any], *, chat: bool) -> None:
        self.connection, self.paced, self.chat = connection, connection.paced, chat
        self.paced.number += 1
        tokens = asked.get("max_completion_tokens") or asked.get("max_tokens") or 16
        per_chunk = self.paced.schedule.per_chunk
        counts = [per_chunk] * (tokens // per_chunk) + [tokens % per_chunk] * (tokens % per_chunk > 0)
        name = f"{'chatcmpl' if chat else 'cmpl'}-{self.paced.number}"
        self.answer = Answer(name, received, counts=counts)
        self.place = STRIDE * self.paced.number
        options = asked.get("stream_options") or {}
        self.usage = bool(options.get("include_usage"))
        self.continuous = bool(options.get("continuous_usage_stats"))
        self.ids = bool(asked.get("return_token_ids"))
        self.prompt_tokens, self.tokens = prompt_length(asked), 0
        self.frames: dict[tuple[int, str | None], bytes] = {}
        role = framed(self.event({"role": "assistant", "content": ""}, [])) if chat else b""
        connection.transport.write(STREAM_HEAD + role)
        self.wait()

    def wait(self) -> None:
        schedule, due = self.paced.schedule, self.answer.due
        factor = self.paced.factors[(self.place + len(due)) % FACTORS]
        if due:
            due.append(due[-1] + schedule.gap * factor)
        else:  # a stall is one between chunks
            due.append(self.answer.received + schedule.ttft * min(factor, 1 + schedule.jitter))
        self.timer = self.paced.loop.call_at(due[-1], self.send)

    def send(self) -> None:
        answer = self.answer
        index = len(answer.sent)
        count = answer.counts[index]
        self.tokens += count
        last = index == len(answer.counts) - 1
        frame = self.frame(count, "length" if last else None)
        answer.sent.append(time.perf_counter())
        self.connection.transport.write(frame)
        if last:
            self.timer = self.paced.loop.call_later(TAIL, self.end)
        else:
            self.wait()

    def frame(self, count: int, finish: str | None) -> bytes:
        """A chunk of so many tokens: the same as before, unless it says how many there were."""
        key = (count, finish)
        if self.continuous or key not in self.frames:
            text = " word" * count
            self.frames[key] = framed(self.event({"content": text} if self.chat else text, [5] * count, finish))
        return self.frames[key]

    def end(self) -> None:
        self.paced.log.append(self.answer)
        self.connection.stream = None
        usage = [self.event(None, [], usage=True)] if self.usage else []
        self.connection.transport.write(framed(*usage, b"[DONE]") + b"0\r\n\r\n")

    def event(self, content: Any, ids: list[int], finish: str | None = None, *, usage: bool = False) -> bytes:
        """One event; without content it has no choices."""
        kind = "delta" if self.chat else "text"
        choice = {"index": 0, kind: content, "logprobs": None, "finish_reason": finish}
        if self.ids:
            choice["token_ids"] = ids
        event: dict[str, Any] = {
            "id": self.answer.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": 0,
            "model": MODEL,
            "choices": [] if content is None else [choice],
        }
        if usage or self.continuous:
            event["usage"] = {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.tokens,
                "total_tokens": self.prompt_tokens + self.tokens,
            }
        elif self.usage:
            event["usage"] = None
        return json.dumps(event, separators=(",", ":")).encode()


async def serve(schedule: Schedule, port: int) -> None:
    paced = Paced(schedule)
    server = await paced.loop.create_server(lambda: Connection(paced), "127.0.0.1", port, backlog=socket.SOMAXCONN)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.disable()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for setting in dataclasses.fields(Schedule):
        parser.add_argument(f"--{setting.name.replace('_', '-')}", type=type(setting.default), default=setting.default)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--core", type=int, help="stay on this core")
    parsed = vars(parser.parse_args())
    core, port = parsed.pop("core"), parsed.pop("port")
    if core is not None:
        os.sched_setaffinity(0, [core])
    asyncio.run(serve(Schedule(**parsed), port))


if __name__ == "__main__":
    main()
