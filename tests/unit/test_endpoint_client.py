"""The client against a server that does what servers do: through a real socket, and in step with the client's clock."""

from __future__ import annotations

import asyncio
import gc
import gzip
import inspect
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Failure, Outcome, Trace
from pytest_llmperf.targets.endpoint.client import Client, Page
from pytest_llmperf.targets.endpoint.dialects import DIALECTS, body, read
from pytest_llmperf.targets.endpoint.replies import Reply
from tests.servers import DONE, Beat, Script, Server, Wire, answers, delta, event, streams, text, usage

KEY = "sk-0123456789abcdef"
Connect = Callable[..., Client]
"""`connect(script)`: a client of a server that answers every request by it."""


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def begin(script: Script | Server, headers: Mapping[str, str] | None = None, timeout: float = 20.0) -> Client:
            server = script if isinstance(script, Server) else Server(lambda _: script)
            stack.enter_context(server)
            client = Client(server.url, headers or {"Authorization": f"Bearer {KEY}"}, timeout)
            stack.callback(client.close)
            return client

        yield begin


def post(client: Client, clock: Callable[[], float] = lambda: 0.0, path: str = "completions") -> Reply:
    return client.run(client.post(path, b"{}", clock))


def test_each_piece_has_the_time_of_its_coming(connect: Connect) -> None:
    beat = Beat()
    reply = post(connect(streams(b": here", b"data: on", b"e\n\n", beat=beat)), beat)
    assert reply.sent == 2
    assert reply.pieces == [(3, b": here"), (4, b"data: on"), (5, b"e\n\n")]
    assert reply.failure is None


def test_a_request_is_sent_when_its_connection_is_there(connect: Connect) -> None:
    """Neither making a connection nor what is before it in the loop counts as waiting for the server."""
    beat = Beat()
    client = connect(streams(DONE))

    async def together() -> list[Reply]:
        return list(await asyncio.gather(*(client.post("completions", b"{}", beat) for _ in range(3))))

    replies = client.run(together())
    assert min(reply.sent for reply in replies) > 3  # all of them had begun


def test_the_request_is_what_was_prepared(connect: Connect) -> None:
    server = Server(lambda _: answers({}))
    client = connect(server, {"Authorization": f"Bearer {KEY}", "accept-encoding": "br", "X-Team": "a"})
    question = json.dumps(body(DIALECTS["completions"], "gpt2", [1, 2], 3)).encode()
    client.run(client.post("completions", question, lambda: 0.0))
    client.run(client.get("models"))
    client.run(client.get("/version"))
    post(client, path=DIALECTS["triton"].path("a b/c"))
    assert [(it.method, it.path) for it in server.received] == [
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/version"),
        ("POST", "/v1/v2/models/a%20b%2Fc/generate_stream"),
    ]
    asked = server.received[0]
    assert asked.json == {"model": "gpt2", "prompt": [1, 2], "max_tokens": 3, "stream": True}
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["accept-encoding"] == "br"
    assert asked.headers["x-team"] == "a"


def test_tokens_are_not_held_back_to_be_compressed(connect: Connect) -> None:
    server = Server(lambda _: answers({}))
    post(connect(server))
    assert server.received[0].headers["accept-encoding"] == "identity"


def test_a_compressed_answer_is_read_all_the_same(connect: Connect) -> None:
    async def script(wire: Wire) -> None:
        await wire.head(**{"content-encoding": "gzip"})
        await wire.send(gzip.compress(DONE))
        await wire.end()

    assert post(connect(script)).body == DONE


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (307, Outcome.BAD_REQUEST),
        (400, Outcome.BAD_REQUEST),
        (401, Outcome.UNAUTHORIZED),
        (403, Outcome.UNAUTHORIZED),
        (404, Outcome.NOT_FOUND),
        (422, Outcome.BAD_REQUEST),
        (429, Outcome.RATE_LIMITED),
        (500, Outcome.SERVER_ERROR),
        (503, Outcome.SERVER_ERROR),
    ],
)
def test_a_refusal_is_named_by_its_status(connect: Connect, status: int, outcome: Outcome) -> None:
    said = {"error": {"message": "not\n  like this", "type": "x", "code": status}}
    reply = post(connect(answers(said, status)))
    assert reply.failure == Failure(outcome, f"HTTP {status}: not like this")
    assert json.loads(reply.body) == said


@pytest.mark.parametrize(
    ("said", "kind", "shown"),
    [
        ({"object": "error", "message": "too long"}, "application/json", "too long"),
        ({"error": "no such model"}, "application/json", "no such model"),
        ({"detail": "prompt must be a string."}, "application/json", "prompt must be a string."),
        (
            {"detail": [{"loc": ["body", "ignore_eos"], "msg": "Extra inputs"}, {"loc": ["body"], "msg": "Empty"}]},
            "application/json",
            "ignore_eos: Extra inputs; Empty",
        ),
        ({"detail": [{"loc": {"a": 1}, "msg": "x"}, {"loc": 3, "msg": "y"}]}, "application/json", "x; y"),
        ({"something": 1}, "application/json", '{"something": 1}'),
        ("[" * 600 + "]" * 600, "application/json", "[" * 189 + "…"),
        ("[" * 100_000, "application/json", "[" * 189 + "…"),
        (
            "<html><head><style>p {}</style><title>502</title></head><body><p>Bad Gateway</p></body></html>",
            "text/html",
            "502 Bad Gateway",
        ),
        ("", "text/plain", "Reason"),
        ("\x1b]0;mine\x07\x1b[2J \x9b1mno\u202e", "text/plain", "]0;mine [2J 1mno\N{REPLACEMENT CHARACTER}"),
        ("x" * 300, "text/plain", "x" * 189 + "…"),
    ],
)
def test_what_a_refusal_says_is_shown_in_a_line(connect: Connect, said: Any, kind: str, shown: str) -> None:
    assert post(connect(answers(said, 502, kind))).failure == Failure(Outcome.SERVER_ERROR, f"HTTP 502: {shown}")


def test_a_server_that_moved_is_not_followed(connect: Connect) -> None:
    """The key belongs to the host that was named, and the way there would be part of the time."""
    server = Server(lambda _: answers("", 308, location="http://127.0.0.1:9/elsewhere"))
    failure = post(connect(server)).failure
    assert failure == Failure(Outcome.BAD_REQUEST, "HTTP 308: moved to http://127.0.0.1:9/elsewhere")
    assert len(server.received) == 1


async def nothing(wire: Wire) -> None:
    wire.close()


async def a_reset(wire: Wire) -> None:
    wire.reset()


async def another_protocol(wire: Wire) -> None:
    await wire.raw(b"SSH-2.0-OpenSSH_9.6\r\n")
    wire.close()


async def half_a_refusal(wire: Wire) -> None:
    await wire.head(500, "text/plain")
    await wire.send(b"out of ")
    await wire.send(b"me")
    wire.close()


async def too_short(wire: Wire) -> None:
    await wire.head(chunked=False, **{"content-length": "1000"})
    await wire.raw(b"data: {")
    wire.close()


@pytest.mark.parametrize(
    ("script", "outcome", "detail"),
    [
        (nothing, Outcome.CLOSED, "before an answer"),
        (a_reset, Outcome.CLOSED, "before an answer"),
        (streams(text("a"), then="close"), Outcome.CLOSED, "in mid-answer"),
        (too_short, Outcome.CLOSED, "in mid-answer"),
        (half_a_refusal, Outcome.SERVER_ERROR, "HTTP 500: out of me"),
        (another_protocol, Outcome.MALFORMED, "no HTTP"),
    ],
)
def test_a_connection_that_breaks_is_an_outcome(
    connect: Connect, script: Script, outcome: Outcome, detail: str
) -> None:
    failure = post(connect(script)).failure
    assert failure is not None
    assert failure.outcome is outcome
    assert detail in failure.detail


def test_a_connection_that_is_reset_keeps_what_came(connect: Connect) -> None:
    beat = Beat()
    reply = post(connect(streams(text("a"), text("b"), beat=beat, then="reset")), beat)
    assert reply.failure == Failure(Outcome.CLOSED, "in mid-answer")
    assert reply.body == text("a") + text("b")


@pytest.mark.parametrize("script", [Wire.hang, streams(text("a"), then="hang")])
def test_a_server_that_hangs_is_given_up(connect: Connect, script: Script) -> None:
    reply = post(connect(script, timeout=0.3))
    assert reply.failure == Failure(Outcome.TIMED_OUT, "no end within 0.3 s")


def flood(status: int) -> Script:
    async def script(wire: Wire) -> None:
        await wire.head(status)
        while True:
            await wire.send(text("a") * 1_000)

    return script


def test_an_answer_without_end_is_not_read_for_ever(connect: Connect) -> None:
    client = connect(flood(200))
    reply = client.run(client.post("completions", b"{}", lambda: 0.0, output_tokens=64))
    assert reply.failure == Failure(Outcome.TOO_LONG, "more than 17 MiB, and no end")
    assert len(reply.body) < 18 << 20
    assert client.run(client.get("models")) == Failure(Outcome.TOO_LONG, "more than 16 MiB, and no end")
    failure = post(connect(flood(500))).failure
    assert failure is not None
    assert failure.outcome is Outcome.SERVER_ERROR


def test_the_time_holds_while_tokens_come(connect: Connect) -> None:
    client = connect(flood(200), timeout=0.2)
    reply = client.run(client.post("completions", b"{}", lambda: 0.0, output_tokens=10**9))
    assert reply.failure == Failure(Outcome.TIMED_OUT, "no end within 0.2 s")


def test_a_server_that_is_not_there_is_an_outcome() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and listens not
        client = Client(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1", {}, 20.0)
        reply = post(client)
        client.close()
    assert reply.failure is not None
    assert reply.failure.outcome is Outcome.UNREACHABLE
    assert "127.0.0.1" in reply.failure.detail


CASES: Mapping[str, tuple[Script, Outcome | None]] = {
    "as asked": (streams(text("a"), text("b"), text("c", finish_reason="length"), usage(2, 3), DONE), None),
    "no [DONE]": (streams(text("a"), text("b"), text("c"), usage(2, 3)), None),
    "no usage": (streams(text("a"), text("b"), text("c"), DONE), None),
    "several in a chunk": (streams(text("a", token_ids=[1]), text("bc", token_ids=[2, 3]), usage(2, 3), DONE), None),
    "keep-alive comments": (streams(b": on\n\n", text("a"), b":\n\n", text("b"), text("c"), usage(2, 3)), None),
    "until it closes": (streams(text("a"), text("b"), text("c"), DONE, chunked=False), None),
    "stopped early": (streams(text("a"), text("b", finish_reason="stop"), usage(2, 2), DONE), Outcome.STOPPED_EARLY),
    "nothing at all": (streams(text("", finish_reason="stop"), usage(2, 0), DONE), Outcome.STOPPED_EARLY),
    "too long": (streams(text("a"), text("b"), text("c"), text("d"), usage(2, 4), DONE), Outcome.TOO_LONG),
    "uncounted": (streams(text("a"), text("bc"), DONE), Outcome.UNCOUNTED),
    "another prompt": (streams(text("a"), text("b"), text("c"), usage(9, 3), DONE), Outcome.OTHER_PROMPT),
    "an error": (streams(text("a"), event({"error": {"message": "out of memory"}}), DONE), Outcome.STREAM_ERROR),
    "an error, and gone": (streams(text("a"), event({"error": "lost"}), then="close"), Outcome.STREAM_ERROR),
    "an error, no stream": (answers({"error": {"message": "no"}}), Outcome.STREAM_ERROR),
    "bad JSON": (streams(text("a"), event('{"choices": ['), text("b"), DONE), Outcome.MALFORMED),
    "a page": (answers("<html><body>Welcome</body></html>", kind="text/html"), Outcome.MALFORMED),
    "no stream": (answers({"choices": [{"text": "abc"}], "usage": {"completion_tokens": 3}}), Outcome.MALFORMED),
    "cut off": (streams(text("a"), text("b"), chunked=False), Outcome.CLOSED),
    "cut off in an event": (streams(text("a"), text("b")[:9], chunked=False), Outcome.CLOSED),
    "an empty answer": (streams(), Outcome.CLOSED),
}


@pytest.mark.parametrize("case", CASES)
def test_every_way_to_answer_has_its_outcome(connect: Connect, case: str) -> None:
    script, expected = CASES[case]
    had = read(DIALECTS["completions"], post(connect(script)), 2, 3)
    assert (had.outcome if isinstance(had, Failure) else None) is expected, had
    if isinstance(had, Trace):
        assert had.output_tokens == 3


def test_an_event_split_by_the_network_is_one(connect: Connect) -> None:
    """Also within a character, and its time is that of its last piece."""
    beat = Beat()
    first, second = delta(role="assistant", content=""), event('{"choices": [{"delta": {"content": "ß"}}]}')
    split = second.index("ß".encode()) + 1
    reply = post(connect(streams(first + second[:split], second[split:] + second, second, DONE, beat=beat)), beat)
    had = read(DIALECTS["chat"], reply, 5, 3)
    assert isinstance(had, Trace)
    assert had.arrivals == (4, 4, 5)
    assert had.ttft == 2


@pytest.mark.parametrize("padding", [0, 170, 185])
def test_the_key_is_shown_nowhere(connect: Connect, padding: int) -> None:
    """Not even the part of it that is left where a message is cut."""
    said = {"error": {"message": f"{'x' * padding} wrong key {KEY}, in Bearer {KEY}"}}
    for script in (answers(said, 401), answers(said), streams(event(said)), streams(event(f"{said}"), DONE)):
        client = connect(script)
        reply = post(client)
        had = read(DIALECTS["completions"], reply, 2, 3)
        assert isinstance(had, Failure)
        assert KEY[:8] not in f"{had} {had!r} {reply.failure} {reply!r} {client!r}"
    page = connect(answers(said, 401))
    assert KEY[:8] not in repr(page.run(page.get("models")))


def test_a_key_that_json_escapes_is_shown_nowhere(connect: Connect) -> None:
    client = connect(answers({"something": 'wrong key sk-"SECRET\\quoted'}, 401), {"X-Key": 'sk-"SECRET\\quoted'})
    assert post(client).failure == Failure(Outcome.UNAUTHORIZED, 'HTTP 401: {"something": "wrong key ***"}')


def test_connections_are_kept(connect: Connect) -> None:
    server = Server(lambda _: streams(DONE))
    client = connect(server)
    for _ in range(3):
        assert post(client).failure is None
    assert server.connections == 1


def test_a_connection_closed_between_rounds_is_not_used_again(connect: Connect) -> None:
    idle = Beat()

    async def script(wire: Wire) -> None:
        await streams(DONE)(wire)
        await idle.looked_at()
        wire.close()

    server = Server(lambda _: script)
    client = connect(server)
    for _ in range(3):
        assert post(client).failure is None
        idle()
        server.wait_for_silence()
    assert server.connections == 3


def test_a_long_piece_is_whole(connect: Connect) -> None:
    long = event({"choices": [{"text": "ß" * 300_000}]})
    assert post(connect(streams(long, DONE))).body == long + DONE


def test_many_requests_go_on_at_a_time(connect: Connect) -> None:
    server = Server(lambda _: streams(*(text("a") for _ in range(8)), DONE))
    client = connect(server)

    async def together() -> list[Reply]:
        return list(await asyncio.gather(*(client.post("completions", b"{}", lambda: 0.0) for _ in range(64))))

    replies = client.run(together())
    assert {reply.body for reply in replies} == {text("a") * 8 + DONE}
    assert {reply.failure for reply in replies} == {None}
    assert server.connections == 64


def test_a_page_is_had_with_the_name_of_the_server(connect: Connect) -> None:
    client = connect(answers({"data": [{"id": "gpt2"}]}))
    page = client.run(client.get("models"))
    assert isinstance(page, Page)
    assert page.server == "scripted/1"
    assert page.json == {"data": [{"id": "gpt2"}]}


def test_a_page_that_is_no_json_is_a_page(connect: Connect) -> None:
    for said in ("ok", "[" * 100_000):
        client = connect(answers(said, kind="text/plain"))
        page = client.run(client.get("/health"))
        assert isinstance(page, Page)
        assert page.json is None


def test_a_page_that_is_not_there_is_a_failure(connect: Connect) -> None:
    client = connect(answers({"detail": "Not Found"}, 404))
    assert client.run(client.get("models")) == Failure(Outcome.NOT_FOUND, "HTTP 404: Not Found")


def test_nothing_goes_on_after_an_interrupt(connect: Connect) -> None:
    server = Server(lambda received: Wire.hang if received.path.endswith("slow") else streams(DONE))
    client = connect(server)
    begun = []

    async def interrupted() -> None:
        begun.append(asyncio.ensure_future(client.post("slow", b"{}", lambda: 0.0)))
        await asyncio.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.run(interrupted())
    assert begun[0].cancelled()
    assert post(client).failure is None


def test_what_was_interrupted_before_it_began_is_closed(connect: Connect) -> None:
    client = connect(streams(DONE))

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def a_trap() -> None:
        asyncio.get_running_loop().call_later(0.02, interrupt)

    client.run(a_trap())
    time.sleep(0.05)
    work = client.post("completions", b"{}", lambda: 0.0)
    with pytest.raises(KeyboardInterrupt):
        client.run(work)
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


def test_an_async_test_is_told_what_to_do(connect: Connect) -> None:
    client = connect(streams(DONE))
    work = client.post("completions", b"{}", lambda: 0.0)

    async def made() -> None:
        with pytest.raises(UsageError, match="an event loop of its own, and one is running here"):
            Client("http://127.0.0.1:9/v1", {}, 20.0)

    async def run() -> None:
        with pytest.raises(UsageError, match=r"in a thread: await asyncio\.to_thread"):
            client.run(work)

    asyncio.run(made())
    asyncio.run(run())
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED
    assert post(client).failure is None


def test_a_client_that_nobody_closes_leaves_nothing_open() -> None:
    with Server(lambda _: streams(DONE)) as server:
        client = Client(server.url, {}, 20.0)
        assert post(client).failure is None
        del client
        gc.collect()
        server.wait_for_silence()


def test_closing_twice_is_closing() -> None:
    client = Client("http://127.0.0.1:9/v1", {}, 20.0)
    client.close()
    client.close()
