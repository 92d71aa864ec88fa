"""When requests are sent, in an event loop whose time is not the machine's."""

from __future__ import annotations

import asyncio
import functools
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pytest_llmperf.model import Failure, Outcome, Trace, Workload
from pytest_llmperf.targets.endpoint.replies import Reply
from pytest_llmperf.targets.endpoint.schedule import Load, Sent, load_of, play, round_of
from pytest_llmperf.targets.protocol import Request
from tests.virtual import VirtualLoop

BEGAN = 100.0
close = functools.partial(pytest.approx, rel=1e-4)
"""Turns of the loop take a little time themselves."""


@dataclass
class Server:
    """Answers each request after the seconds that its number says, so many at a time."""

    loop: VirtualLoop
    seconds: Callable[[int], float] = lambda number: 1.0
    slots: int = 10**6
    began: list[float] = field(default_factory=list)
    most: int = 0
    _busy: int = 0

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.slots)

    async def send(self, request: Request) -> Reply:
        self.began.append(self.loop.time())
        reply = Reply(self.loop.time())
        self._busy += 1
        self.most = max(self.most, self._busy)
        async with self._free:
            await asyncio.sleep(self.seconds(len(self.began)))
        self._busy -= 1
        reply.pieces.append((self.loop.time(), b""))
        return reply


def _upcoming(dues: list[float] | None = None):
    requests = (Request(Workload(), number, None if dues is None else dues[number]) for number in itertools.count())
    return requests if dues is None else itertools.islice(requests, len(dues))


def _played(load: Load, server: Callable[[VirtualLoop], Server] = Server, dues: list[float] | None = None):
    loop = VirtualLoop(BEGAN)
    serving = server(loop)
    return loop.finish(play(load, _upcoming(dues), serving.send, loop.time)), serving, loop


def _trace(sent: Sent) -> Trace:
    assert sent.reply is not None
    return Trace(sent.reply.sent, (sent.reply.pieces[-1][0],), prompt_tokens=1)


# At a concurrency


def test_one_request_is_sent_alone_and_counts() -> None:
    sent, server, loop = _played(Load())
    assert [one.counts for one in sent] == [True]
    assert [*server.began, loop.now] == close([100.0, 101.0])


def test_each_answer_lets_the_next_request_go_and_never_more_are_in_flight() -> None:
    _, server, _ = _played(Load(concurrency=1, counted=3))
    assert server.began == close([100.0, 101.0, 102.0])
    _, server, _ = _played(Load(concurrency=4, counted=12, ramp_up=4))
    assert server.most == 4


def test_the_first_do_not_count_and_the_load_is_kept_up_until_the_last_that_counts_is_answered() -> None:
    slow_last = {6: 5.0}  # the sixth request takes long: others keep the other slot busy meanwhile
    sent, server, _ = _played(
        Load(concurrency=2, counted=4, ramp_up=2), lambda loop: Server(loop, lambda number: slow_last.get(number, 1.0))
    )
    assert [one.counts for one in sent[:7]] == [False, False, True, True, True, True, False]
    assert sum(one.counts for one in sent) == 4
    assert all(one.reply is not None for one in sent)
    last = next(one for number, one in enumerate(sent, 1) if number == 6)
    assert len([began for began in server.began if last.reply.sent <= began < last.reply.sent + 5]) == 5 + 1


def test_the_first_of_a_concurrency_are_spread_over_the_time_that_a_request_takes() -> None:
    _, server, _ = _played(Load(concurrency=4, counted=4, ramp_up=4, spread=1.0))
    assert server.began[:4] == close([100.0, 100.25, 100.5, 100.75])


def test_an_exhausted_round_leaves_nothing_in_flight() -> None:
    sent, server, loop = _played(Load(concurrency=3, counted=3, ramp_up=3, spread=0.9))
    assert server._busy == 0
    assert loop.now == close(max(one.reply.pieces[-1][0] for one in sent))


# At a rate


def test_requests_are_sent_when_they_are_due_whether_or_not_earlier_ones_are_answered() -> None:
    load = Load(None, counted=4, rate=2.0, poisson=False)
    _, server, _ = _played(load, lambda loop: Server(loop, lambda number: 10.0))
    assert server.began == close([100.0, 100.5, 101.0, 101.5])
    assert server.most == 4


def test_at_a_rate_too_others_come_before_and_after_those_that_count() -> None:
    load = Load(None, counted=4, ramp_up=3, rate=2.0, poisson=False)
    sent, server, _ = _played(load, lambda loop: Server(loop, lambda number: 1.2))
    assert [one.counts for one in sent] == [False] * 3 + [True] * 4 + [False] * 3
    assert server.began == close([100 + 0.5 * number for number in range(10)])


def test_a_server_that_falls_behind_is_not_sent_more_and_more() -> None:
    load = Load(None, counted=4, ramp_up=3, rate=2.0, poisson=False)
    sent, _, _ = _played(load, lambda loop: Server(loop, lambda number: 100.0))
    assert len(sent) == 10


def test_times_begin_when_a_request_was_due_though_it_was_sent_late() -> None:
    late = [Sent(Request(Workload(), 0), due=10.0, counts=True, reply=Reply(10.4, [(11.0, b"")]))]
    (trace,) = round_of(late, _trace, 0.0).traces
    assert (trace.sent, trace.ttft) == (10.0, close(1.0))
    assert trace.lag == close(0.4)


def test_a_server_that_answers_one_at_a_time_cannot_hide_its_queue() -> None:
    load = Load(None, counted=10, rate=10.0, poisson=False)
    sent, _, _ = _played(load, lambda loop: Server(loop, slots=1))
    ttfts = [trace.ttft for trace in round_of(sent, _trace, 0.0).traces]
    assert ttfts == close([1.0 + 0.9 * place for place in range(10)])


def test_random_arrivals_come_at_the_rate_and_vary_as_poisson_says() -> None:
    gaps = list(itertools.islice(Load(None, rate=20.0, seed=3).gaps(), 20_000))
    assert statistics.fmean(gaps) == pytest.approx(0.05, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.05, rel=0.05)
    assert gaps[:50] == list(itertools.islice(Load(None, rate=20.0, seed=3).gaps(), 50))
    assert gaps[:50] != list(itertools.islice(Load(None, rate=20.0, seed=4).gaps(), 50))


def test_a_recorded_load_is_sent_at_its_own_times_and_ends_where_it_does() -> None:
    load = Load(None, counted=3, rate=None)
    sent, server, _ = _played(load, dues=[7.0, 7.25, 9.0])
    assert server.began == close([100.0, 100.25, 102.0])
    assert [one.counts for one in sent] == [True] * 3


# What a workload asks for


@pytest.mark.parametrize(
    ("workload", "usual", "expected"),
    [
        (Workload(), 0.0, Load(1, 1, 0, seed=5)),
        (Workload(requests=5), 2.0, Load(1, 5, 0, spread=2.0, seed=5)),
        (Workload(concurrency=4), 0.5, Load(4, 8, 4, spread=0.5, seed=5)),
        (Workload(concurrency=32), 0.5, Load(32, 32, 32, spread=0.5, seed=5)),
        (Workload(concurrency=4, requests=100), 0.5, Load(4, 100, 4, spread=0.5, seed=5)),
        (Workload(request_rate=1), 0.0, Load(None, 8, 0, rate=1, seed=5)),
        (Workload(request_rate=20.0), 0.0, Load(None, 40, 0, rate=20.0, seed=5)),
        (Workload(request_rate=20.0, arrivals="constant"), 0.5, Load(None, 40, 10, rate=20.0, poisson=False, seed=5)),
        (Workload(request_rate=20.0), 60.0, Load(None, 40, 40, rate=20.0, seed=5)),
    ],
)
def test_the_load_of_a_workload(workload: Workload, usual: float, expected: Load) -> None:
    assert load_of(workload, usual, seed=5) == expected


def test_a_recorded_load_counts_all_of_it_unless_it_is_to_come_at_a_rate_or_a_concurrency() -> None:
    assert load_of(Workload(), 1.0, 5, timed=70) == Load(None, 70, 0, rate=None, seed=5)
    assert load_of(Workload(requests=20), 1.0, 5, timed=70) == Load(None, 20, 0, rate=None, seed=5)


# What came of it


def test_a_failed_request_has_no_times() -> None:
    failed = Failure(Outcome.SERVER_ERROR, "HTTP 500")
    sent = [Sent(Request(Workload(), k), None, counts=k > 0, reply=Reply(1.0, [(2.0, b"")])) for k in range(3)]
    taken = round_of(sent, lambda one: failed if one is sent[1] else _trace(one), client_lag=0.25)
    assert (len(taken.traces), len(taken.beside), taken.failures) == (1, 1, (failed,))
    assert taken.client_lag == 0.25
