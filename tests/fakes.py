"""A clock that moves only when told, a target that takes exactly the time it says, a device that records calls."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.measure import Effort, Serving, requests, server
from pytest_llmperf.measure.conditions import Unwatched
from pytest_llmperf.model import Failure, Memory, Round, Trace, Unknown, Workload
from pytest_llmperf.targets import Clock, Request
from pytest_llmperf.targets.device import MemoryTrack, Room
from pytest_llmperf.targets.protocol import Rest, no_rest

TINY = "random:gpt2?n_layer=2&n_embd=64&n_head=4&vocab_size=500&n_positions=256"
"""A model of about 0.5 ms per token, for tests of the real thing."""


def transformers_validates_configs() -> bool:
    """Newer transformers refuse a config value of the wrong type; older ones fail wherever it is first used."""
    from transformers import AutoConfig

    try:
        AutoConfig.for_model("gpt2", n_layer="two")
    except Exception:
        return True
    return False


class FakeClock:
    """Seconds that pass only by `advance()`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeDevice:
    """Records every call in order; memory figures are set by the test."""

    name = "fake"
    names = (name,)

    def __init__(self, *, has_own_clock: bool = False, peak: int = 0, end: int = 0, available: int = 2**40) -> None:
        self.has_own_clock = has_own_clock
        self.calls: list[str] = []
        self.peak, self.end, self.available = peak, end, available
        self.held: Iterator[int | Unknown] = itertools.repeat(2**20)
        self.stretches: Iterator[tuple[int | Unknown, int | Unknown]] = itertools.repeat((3 * 2**20, 2 * 2**20))

    def stamp(self, clock: Clock) -> float:
        self.calls.append("stamp")
        return clock()

    def seconds(self, start: float, end: float) -> float:
        self.calls.append("seconds")
        return end - start

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    @contextmanager
    def track_memory(self) -> Iterator[MemoryTrack]:
        self.calls.append("track")
        track = MemoryTrack()
        yield track
        track.peak, track.end = self.peak, self.end
        track.reserved, track.allocated = next(self.stretches)

    def held_bytes(self) -> int | Unknown:
        self.calls.append("held")
        return next(self.held)

    def rooms(self) -> list[Room]:
        return [Room(self.name, 2**40, self.available, {"live": 2**20})]

    def available_bytes(self) -> int:
        return self.available

    def release(self) -> None:
        self.calls.append("release")


@dataclass
class FakeTarget:
    """Takes `ttft` seconds to the first token and `gap` to each further one, scaled per round if asked.

    Args:
        scales: factor on the times of successive rounds; the last holds for all after it.
    """

    clock: FakeClock
    ttft: float = 0.1
    gap: float = 0.01
    scales: list[float] = field(default_factory=lambda: [1.0])
    weights: int | Unknown = 100 * 2**20
    kv_cache: int | Unknown = 2 * 2**20
    id: str = "fake"
    dtype: str = "float32"
    model: Any = None
    tokenizer: Any = None
    positions: int | None = None
    device: FakeDevice = field(default_factory=FakeDevice)
    seeds: list[int] = field(default_factory=list)
    runs: int = 0
    begun: int = 0

    def begin(self) -> None:
        self.begun += 1

    def request(self, workload: Workload, seed: int) -> Request:
        self.seeds.append(seed)
        return Request(workload, seed)

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        scale = self.scales[min(self.runs, len(self.scales) - 1)]
        self.runs += 1
        sent = clock()
        arrivals = []
        for k in range(request.workload.output_tokens):
            self.clock.advance(scale * (self.gap if k else self.ttft))
            arrivals.append(clock())
            rest()
        return Trace(sent, tuple(arrivals), request.workload.prompt_tokens, sequences=request.workload.batch_size)

    def step_through(self, request: Request, mark: Callable[[], object]) -> Unknown:
        return Unknown("a fake has no steps")

    def weights_bytes(self) -> int | Unknown:
        return self.weights

    def kv_cache_bytes(self, request: Request) -> int | Unknown:
        return self.kv_cache


@dataclass
class FakeServer(FakeTarget):
    """Serves as many as are in flight one after the other; the failures of each round are given."""

    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ("asked without seed: the server refuses it",)
    failures: Iterator[tuple[Failure, ...]] = field(default_factory=lambda: itertools.repeat(()))
    client_lag: float = 0.0
    sent_late: float = 0.0

    def serve(self, workload: Workload, upcoming: Iterator[Request], clock: Clock) -> Round:
        traces = tuple(self.run(next(upcoming), clock) for _ in range(workload.concurrency))
        late = tuple(dataclasses.replace(trace, lag=self.sent_late) for trace in traces)
        return Round(late, failures=next(self.failures), client_lag=self.client_lag)

    def memory(self) -> Memory:
        return Memory(peak_rss=3 * 2**20)

    def close(self) -> None: ...


def serving(target: FakeTarget, workload: Workload, **effort: Any) -> Serving:
    """The target, warm, on its own clock."""
    upcoming = requests(target, workload)
    serve = server(target, workload, upcoming, target.clock)
    prefills = requests(target, Workload(workload.prompt_tokens, 1), 1_000_001)
    return Serving(
        target,
        workload,
        Effort(**effort),
        upcoming,
        prefills,
        serve,
        [serve()],
        target.clock,
        lambda stage: None,
        Unwatched(),
    )


class ScriptedProcess:
    """A process of a duet that says what it is to say, in that order, and meets what is an error instead."""

    def __init__(self, *says: Any) -> None:
        self.says = list(says)
        self.told: list[Any] = []
        self.closed = False

    @property
    def said(self) -> list[str]:
        """What it was told, without what came with it."""
        return [say for say, *_ in self.told]

    def tell(self, say: str, **content: Any) -> None:
        self.told.append((say, *content.values()))

    def hear(self, *expected: str, patience: float | None = None) -> Any:
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        assert said["say"] in expected
        return said

    def close(self) -> None:
        self.closed = True
