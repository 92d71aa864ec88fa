"""When the requests of a round are sent.

At a concurrency (closed loop) so many are in flight, and each answer lets the next request go. At a rate (open loop)
each is sent when it is due, whatever became of the others, and its times begin when it *should* have been sent: a
server that lets requests queue cannot hide it. The first requests find a server that is not loaded yet, and the last
would find one that is no longer; neither are among those that count.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pytest_llmperf.model import Failure, Round, Trace, Workload
from pytest_llmperf.targets.endpoint.replies import Reply
from pytest_llmperf.targets.protocol import Clock, Request

FEWEST_COUNTED = 8
"""Requests of a round in which several are in flight."""
COUNTED_S = 2.0
"""At a rate, a round counts what is due in so many seconds."""
SPUN_S = 0.0015
"""The event loop's timers are late by up to a millisecond; the last stretch before a request is due is waited awake."""


@dataclass(frozen=True)
class Load:
    """How a round is sent.

    Args:
        concurrency: requests in flight; None where each has its time.
        counted: requests whose figures count.
        ramp_up: those before them.
        spread: seconds over which the first of a concurrency are sent, so that they do not move in step for ever.
        rate: requests per second; None where the requests say when they are due.
        poisson: whether they come at random at that rate, or evenly.
        seed: of what is random.
    """

    concurrency: int | None = 1
    counted: int = 1
    ramp_up: int = 0
    spread: float = 0.0
    rate: float | None = None
    poisson: bool = True
    seed: int = 0

    @property
    def enough(self) -> int:
        """Requests of a round: after those that count about as many come as before them."""
        return 2 * self.ramp_up + self.counted

    def gaps(self) -> Iterator[float]:
        """Seconds from each request to the next."""
        assert self.rate is not None
        draw = random.Random(self.seed)
        while True:
            yield draw.expovariate(self.rate) if self.poisson else 1 / self.rate


def load_of(workload: Workload, usual: float, seed: int, *, timed: int | None = None) -> Load:
    """The load that a workload asks for.

    Args:
        usual: seconds that a request took in earlier rounds; 0 where there were none.
        timed: requests that say themselves when they are due, where they do.
    """
    if workload.request_rate is None and timed is None:
        several = workload.concurrency > 1
        counted = workload.requests or (max(FEWEST_COUNTED, workload.concurrency) if several else 1)
        return Load(workload.concurrency, counted, workload.concurrency if several else 0, spread=usual, seed=seed)
    rate = workload.request_rate
    counted = workload.requests or timed or max(FEWEST_COUNTED, math.ceil(COUNTED_S * (rate or 0)))
    in_flight = math.ceil((rate or 0) * usual)  # Little's law: as many come before the load is what it stays
    poisson = workload.arrivals != "constant"
    return Load(None, counted, 0 if rate is None else min(in_flight, counted), rate=rate, poisson=poisson, seed=seed)


@dataclass
class Sent:
    """A request on its way.

    Args:
        due: when it was to be sent; None where it went as soon as there was room.
        counts: whether it is one of those that count.
    """

    request: Request
    due: float | None
    counts: bool
    reply: Reply | None = None


Send = Callable[[Request], Awaitable[Reply]]


@dataclass
class _Round:
    """A round under way."""

    load: Load
    upcoming: Iterator[Request]
    send: Send
    clock: Clock
    sent: list[Sent] = field(default_factory=list)
    answered: int = 0

    @property
    def over(self) -> bool:
        """Whether all that count have been answered."""
        return self.answered >= self.load.counted

    def take(self) -> Sent:
        number = len(self.sent)
        counts = self.load.ramp_up <= number < self.load.ramp_up + self.load.counted
        self.sent.append(Sent(next(self.upcoming), None, counts))
        return self.sent[-1]

    async def post(self, one: Sent) -> None:
        one.reply = await self.send(one.request)
        self.answered += one.counts

    async def keep_busy(self, delay: float) -> None:
        """One of those in flight, and the next as soon as it is answered."""
        if delay:
            await asyncio.sleep(delay)
        while not self.over:
            await self.post(self.take())

    async def closed(self, concurrency: int) -> None:
        delays = (self.load.spread * place / concurrency for place in range(concurrency))
        await asyncio.gather(*map(self.keep_busy, delays))

    async def open(self) -> None:
        began = self.clock()
        dues = itertools.accumulate(self.load.gaps(), initial=0.0) if self.load.rate is not None else None
        first: float | None = None
        under_way = []
        while not self.over and len(self.sent) < self.load.enough:  # more only add to what an overloaded server owes
            one = self.take()
            own = one.request.due or 0.0
            first = own if first is None else first
            one.due = began + (own - first if dues is None else next(dues))
            await _until(one.due, self.clock)
            under_way.append(asyncio.ensure_future(self.post(one)))
        await asyncio.gather(*under_way)


async def _until(due: float, clock: Clock) -> None:
    while (left := due - clock()) > 0:
        await asyncio.sleep(left - SPUN_S if left > SPUN_S else 0)


async def play(load: Load, upcoming: Iterator[Request], send: Send, clock: Clock) -> list[Sent]:
    """Send the requests of a round, and wait for all of them: nothing is left over for the next."""
    going = _Round(load, upcoming, send, clock)
    await (going.open() if load.concurrency is None else going.closed(load.concurrency))
    return going.sent


def round_of(sent: Sequence[Sent], read: Callable[[Sent], Trace | Failure], client_lag: float) -> Round:
    """What came of it, read now that nobody waits."""
    counted: list[Trace] = []
    beside: list[Trace] = []
    failures = []
    for one in sent:
        seen = read(one)
        if isinstance(seen, Failure):
            failures.append(seen)
        elif one.due is not None:
            seen = dataclasses.replace(seen, sent=one.due, lag=max(0.0, seen.sent - one.due))
        if isinstance(seen, Trace):
            (counted if one.counts else beside).append(seen)
    return Round(tuple(counted), tuple(beside), tuple(failures), client_lag)
