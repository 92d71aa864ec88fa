"""Measuring one workload on one target: warm up, take rounds, then look at memory and count, apart from them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pytest_llmperf import metrics, ranks
from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.errors import OutOfMemoryTargetError, forget_frames
from pytest_llmperf.measure import served
from pytest_llmperf.measure.conditions import Unwatched
from pytest_llmperf.measure.energy import evened, metered
from pytest_llmperf.measure.leaks import leak_note
from pytest_llmperf.measure.memory import memory_pass, peak_rss
from pytest_llmperf.measure.quiet import torch_threads
from pytest_llmperf.measure.rounds import Effort, Need, take, warm_up
from pytest_llmperf.model import (
    Conditions,
    Counts,
    Environment,
    Limit,
    Measurement,
    Memory,
    Profile,
    Round,
    Trace,
    Unknown,
    Workload,
)
from pytest_llmperf.parts import conditions_of, summed
from pytest_llmperf.profiling.busy import busy
from pytest_llmperf.profiling.counters import PROFILED_TOKENS, compilations, count
from pytest_llmperf.profiling.roofline import under_ceilings
from pytest_llmperf.profiling.traces import untraced
from pytest_llmperf.targets import Clock, Request, Served, Target
from pytest_llmperf.targets.parallel import of_all_ranks

__all__ = [
    "Effort",
    "Need",
    "Serving",
    "alone",
    "collector_quiet",
    "measure",
    "profile_of",
    "requests",
    "server",
    "torch_threads",
    "with_room",
]

Progress = Callable[[str], None]
Done = TypeVar("Done")


@dataclass(frozen=True)
class Serving:
    """A warm target at a workload, for whoever takes its timed rounds.

    Args:
        upcoming: endlessly many requests.
        prefills: as many of which only the first token is asked for.
        serve: one round.
        warm: the rounds that warmed it up.
        watch: over the machine, from the first timed round on.
    """

    target: Target
    workload: Workload
    effort: Effort
    upcoming: Iterator[Request]
    prefills: Iterator[Request]
    serve: Callable[[], Round]
    warm: Sequence[Round]
    clock: Clock
    progress: Progress
    watch: Unwatched


def alone(look: Callable[[Sequence[Round]], Need] = lambda rounds: Need.NOTHING) -> Callable[[Serving], list[Round]]:
    """Rounds one after the other.

    Args:
        look: asked now and then whether the rounds so far suffice.
    """

    def taken(serving: Serving) -> list[Round]:
        serve = metered(_counted(serving.serve, serving.effort, serving.progress), serving.watch.energy)
        return evened(take(serve, serving.effort, look, serving.clock, serving.watch))

    return taken


_ALONE = alone()
_NOBODY = Unwatched()


def measure(
    target: Target,
    workload: Workload,
    effort: Effort,
    load: float | Unknown = Measurement.load,
    taken: Callable[[Serving], list[Round]] = _ALONE,
    *,
    environment: Environment = Measurement.environment,
    objectives: Sequence[Limit] = (),
    price_per_hour: float | Unknown = Measurement.price_per_hour,
    trace: Callable[[], Path] | None = None,
    make_room: Callable[[], bool] = lambda: False,
    progress: Progress = lambda stage: None,
    clock: Clock = time.perf_counter,
    watch: Unwatched = _NOBODY,
) -> Measurement:
    """All rounds of one workload on one target, with memory, counts and what the device could do.

    Args:
        load: seconds the load took, where it was made for this measurement; then the first request is cold.
        taken: how the timed rounds are taken.
        objectives: limits that a request by itself keeps or breaks.
        price_per_hour: of the device, in whatever currency.
        trace: asked for the file of a Chrome trace, where one is wanted.
        make_room: lets go of what else is loaded, where memory runs out, and says whether there was anything.
        progress: told each stage in a few words.
        watch: over the machine.
    """
    target = of_all_ranks(target)
    target.begin()
    file = trace and trace()  # its folder is made before any time goes into measuring
    upcoming = requests(target, workload)
    prefills = requests(target, dataclasses.replace(workload, output_tokens=1), _FIRST_PREFILL)
    serve = with_room(server(target, workload, upcoming, clock), make_room)
    serving = Serving(target, workload, effort, upcoming, prefills, serve, (), ranks.shared(clock), progress, watch)
    with torch_threads(effort.threads):
        found = _Found([serve()]) if effort.smoke else _in_full(serving, taken, clock, file)
    if isinstance(target, Served):
        load = _RUNNING
    of_times = served.notes(target, found.rounds) if isinstance(target, Served) else (_slowed(),)
    of_trace = untraced(file, found.counts.prefill.ops) if file is not None else ""
    seen = metrics.summarize(
        Measurement(
            target=target.id,
            workload=_as_served(workload, found.rounds),
            rounds=tuple(found.rounds),
            memory=found.memory,
            counts=found.counts,
            load=load,
            cold=Measurement.cold if isinstance(load, Unknown) else (*found.warm, *found.rounds)[0].traces[0],
            environment=environment,
            conditions=found.conditions,
            objectives=tuple(objectives),
            price_per_hour=price_per_hour,
            notes=tuple(filter(None, (*of_times, found.leaking, *watch.unseen, of_trace))),
        )
    )
    if effort.smoke or isinstance(target, Served):
        return seen
    with torch_threads(effort.threads):
        return under_ceilings(seen, target, clock)


@dataclass(frozen=True)
class _Found:
    """What rounds, and the passes apart from them, have brought."""

    rounds: Sequence[Round]
    warm: Sequence[Round] = ()
    memory: Memory = Memory()
    counts: Counts = Counts()
    conditions: Conditions = Conditions()
    leaking: str = ""


def _in_full(serving: Serving, taken: Callable[[Serving], list[Round]], clock: Clock, trace: Path | None) -> _Found:
    """Warm up, take the timed rounds, look at memory, count."""
    target, effort, watch = serving.target, serving.effort, serving.watch
    serving.progress("warming up")
    with peak_rss() as rss:
        warm = warm_up(serving.serve, effort, serving.clock)
    if watch.look(ended=True) is not None:
        watch.forget()
    compiled = compilations()
    rounds = taken(dataclasses.replace(serving, warm=warm))
    compiled = compilations() - compiled
    watch.look(ended=True)
    conditions = conditions_of(ranks.gathered(watch.seen))
    leaking = leak_note(rounds, target.device)
    if isinstance(target, Served):
        memory, counts = served.passes(target)
    else:
        passes = _Passes(target, serving.workload, effort, rounds[-1], clock, serving.progress)
        own = dataclasses.replace(passes.memory(next(serving.upcoming)), peak_rss=rss.value)
        counts = passes.counts(own, compiled, trace)
        memory = summed(ranks.gathered(own))
    return _Found(rounds, warm, memory, counts, conditions, leaking)


@dataclass(frozen=True)
class _Passes:
    """Those apart from timing.

    Args:
        last: the last timed round, by which it is known how long another takes.
    """

    target: Target
    workload: Workload
    effort: Effort
    last: Round
    clock: Clock
    progress: Progress

    def memory(self, request: Request) -> Memory:
        self.progress("measuring memory")
        return memory_pass(self.target, request, self.clock, twice=2 * self.last.wall < self.effort.max_time)

    def counts(self, memory: Memory, compiled: int, trace: Path | None) -> Counts:
        self.progress("counting")
        return count(
            self.target,
            self.target.request(self.workload, _COUNTED),
            memory.kv_cache,
            timely=functools.partial(_timely, self.last.traces[0], max(self.effort.max_time, _LONGEST_COUNTED_S)),
            compiles=compiled,
            trace=trace,
        )


def _slowed() -> str:
    """Whether the user's own look at operators took its time, too."""
    occupied = busy()
    return "" if occupied is None else f"times are slower than without it: {occupied.reason}"


_RUNNING = Unknown("the server was running before the test asked it")


def profile_of(target: Target, workload: Workload, threads: int | None, trace: Path | None = None) -> Profile:
    """The operators of a request's first tokens, after one that warms up."""
    from pytest_llmperf.profiling.operators import profile

    target = of_all_ranks(target)
    target.begin()
    with torch_threads(threads):
        request = target.request(workload, _COUNTED).shorter(PROFILED_TOKENS)
        target.run(request, time.perf_counter)
        seen = ranks.agreed(profile(target, request, trace))
    return Profile.of(target.id, workload, seen.prefill, seen.decode)


_FIRST_PREFILL = 1_000_001
"""Their prompts are others than those of whole requests."""


_LONGEST_COUNTED_S = 10.0
"""A request that takes longer is not served once more only to be counted, unless more time is allowed."""
_COUNTED = 0
"""The prompt of the counting pass is the same in every run: which experts work may depend on it."""


def _timely(seen: Trace, most: float, tokens: int) -> bool:
    """Whether so many tokens come, as fast as they were seen, in `most` seconds."""
    gaps = len(seen.arrivals) - 1
    return seen.ttft + (seen.decode / gaps * min(tokens - 1, gaps) if gaps else 0.0) < most


def requests(target: Target, workload: Workload, first: int = 1) -> Iterator[Request]:
    """Endlessly many requests, each with a prompt of its own, the same ones in every session."""
    return (target.request(workload, seed) for seed in itertools.count(first))


def server(target: Target, workload: Workload, upcoming: Iterator[Request], clock: Clock) -> Callable[[], Round]:
    """What serves one round each time it is called."""

    def serve() -> Round:
        if isinstance(target, Served):
            with collector_quiet():
                return target.serve(workload, upcoming, clock)
        request = next(upcoming)
        target.device.synchronize()
        with collector_quiet():
            trace = target.run(request, clock)
        return Round((trace,), held=target.device.held_bytes())

    return serve


def with_room(serve: Callable[[], Done], make_room: Callable[[], bool]) -> Callable[[], Done]:
    """Serves once more, where memory ran out and room could be made."""

    def serve_or_make_room() -> Done:
        try:
            return serve()
        except OutOfMemoryTargetError as error:
            forget_frames(error)  # which hold what it had made so far
            if not make_room():
                raise
        return serve()

    return serve_or_make_room


def _counted(serve: Callable[[], Round], effort: Effort, progress: Progress) -> Callable[[], Round]:
    numbers = itertools.count(1)
    of = f" of {effort.rounds}" if effort.rounds else ""

    def serve_and_tell() -> Round:
        progress(f"round {next(numbers)}{of}")
        return serve()

    return serve_and_tell


def _as_served(workload: Workload, rounds: Sequence[Round]) -> Workload:
    """With the prompt tokens that were really sent: a text's length is the tokenizer's to say."""
    if workload.mix is not None:
        return workload
    return dataclasses.replace(workload, prompt_tokens=rounds[0].traces[0].prompt_tokens)
