"""The operator profile: which operators ran in each phase, how often, and how long they took in themselves."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pytest_llmperf import ranks
from pytest_llmperf.model import Operator, Phase, Unknown
from pytest_llmperf.profiling import NO_OPERATOR, NOT_BY_TOKEN, NOT_IN_DECODE, ONE_TOKEN
from pytest_llmperf.profiling.busy import busy
from pytest_llmperf.roles import is_operator, is_wait
from pytest_llmperf.targets import Clock, Request, Target

FEWEST_STEPS = 5
"""Of decode, among which each operator was surely once not held up."""
_LONGEST_S = 2.0
"""After which a request is not served again for more steps."""
_MARK = "llmperf step"
_READ = "aten::_local_scalar_dense"
_LAUNCH = re.compile(r"^(cuda|cu|hip)\w*Launch(?!HostFunc)")
_NO_DEVICE = Unknown("the target launches no kernels: it is not on a CUDA device")


@dataclass(frozen=True)
class Profiled:
    """Both phases, as the profiler saw them."""

    prefill: Phase
    decode: Phase

    @classmethod
    def unseen(cls, why: Unknown) -> Profiled:
        return cls(_unseen(why), _unseen(why))


def profile(target: Target, request: Request, trace: Path | None = None, clock: Clock = time.perf_counter) -> Profiled:
    """Serve the request under `torch.profiler`, again where its steps are few, and its prefill once more.

    Decode is steps but the first of an answer, which sets up what the others find ready. Calls are means of what was
    seen, times the least that a call took, and of what lies between them: the processor may be taken away in any step.

    Args:
        trace: where a Chrome trace goes, which TensorBoard opens too.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints USDT lines on descriptor 2
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as profiling

    if occupied := busy():
        return Profiled.unseen(occupied)
    clock = ranks.shared(clock)

    def mark() -> None:
        with record_function(_MARK):
            pass

    def serve(part: Request) -> Unknown | None:
        mark()
        return target.step_through(part, mark)

    def serve_all() -> Iterator[Unknown | None]:
        until = clock() + _LONGEST_S
        yield serve(request)
        for _ in itertools.takewhile(lambda _: clock() < until, range(_passes(tokens) - 1)):
            yield serve(request)
        yield serve(request.shorter(1))

    on_device = target.device.name.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    tokens = request.workload.output_tokens
    target.device.synchronize()
    with profiling(activities=activities) as seen:
        passes = list(serve_all())
        target.device.synchronize()
    if trace is not None:
        seen.export_chrome_trace(str(trace))
    events = [event for event in seen.events() or () if not event.is_async]
    marks = sorted(event.time_range.start for event in events if event.name == _MARK and _on_host(event))
    hidden = passes[0]
    if not hidden and len(marks) != (len(passes) - 1) * (1 + tokens) + 2:
        hidden = NOT_BY_TOKEN
    if not hidden and not any(is_operator(event.name) for event in events):
        hidden = NO_OPERATOR
    if hidden:
        return Profiled.unseen(hidden)
    spans = [list(pairwise(marks[start : start + 1 + tokens])) for start in range(0, len(marks), 1 + tokens)]
    steps = [step for _, *decode in spans for step in decode[1:] or decode]
    decode = _phase(events, steps, on_device) if steps else _unseen(ONE_TOKEN)
    if decode.ops == 0:
        return Profiled.unseen(NOT_IN_DECODE)
    return Profiled(_phase(events, [each[0] for each in spans], on_device), decode)


def _passes(tokens: int) -> int:
    """How often to serve so many tokens."""
    steps = max(1, tokens - 2)  # without the first one, if there is another
    return math.ceil(FEWEST_STEPS / steps) if tokens > 1 else 1


def _unseen(why: Unknown) -> Phase:
    return Phase(why, why, why, why)


def _phase(events: Iterable[Any], spans: Sequence[tuple[float, float]], on_device: bool) -> Phase:
    """What began on the host within each span, in microseconds."""
    host = [event for event in events if _on_host(event) and event.name != _MARK]
    by_span = [[event for event in host if start <= event.time_range.start < end] for start, end in spans]
    own = [event for within in by_span for event in within]
    leaves = sum(1 for event in own if is_operator(event.name) and not _calls_operators(event))
    waits = sum(1 for event in own if event.name == _READ or (is_wait(event.name) and not _reads(event)))
    launches = sum(1 for event in own if _LAUNCH.match(event.name))
    rows = _rows(by_span)
    between = min(_between(start, end, within) for (start, end), within in zip(spans, by_span, strict=True))
    on_host = sum(row.host for row in rows) + between / 1e6
    return Phase(
        ops=leaves / len(spans),
        syncs=waits / len(spans),
        kernels=launches / len(spans) if on_device else _NO_DEVICE,
        seconds=max(on_host, sum(row.device for row in rows)),  # a device may go on after the host has launched all
        operators=rows,
        steps=len(spans),
    )


def _on_host(event: Any) -> bool:
    return bool(event.device_type.name == "CPU")


def _calls_operators(event: Any) -> bool:
    return any(is_operator(child.name) for child in event.cpu_children)


def _reads(event: Any) -> bool:
    """Whether a wait belongs to the reading of a scalar, which counts by itself."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name == _READ:
            return True
        parent = parent.cpu_parent
    return False


def _between(start: float, end: float, events: Iterable[Any]) -> float:
    """Time of a span in no event of its own."""
    own: float = sum(event.self_cpu_time_total for event in events)
    return max(0.0, end - start - own)


def _rows(by_span: Sequence[Sequence[Any]]) -> tuple[Operator, ...]:
    same: dict[str, list[list[Any]]] = defaultdict(lambda: [[] for _ in by_span])
    for span, events in enumerate(by_span):
        for event in events:
            same[event.name][span].append(event)
    rows = []
    for name, seen in same.items():
        calls = sum(map(len, seen)) / len(seen)
        called = [events for events in seen if events]
        host = min(sum(event.self_cpu_time_total for event in events) / len(events) for events in called)
        device = min(sum(event.self_device_time_total for event in events) / len(events) for events in called)
        rows.append(Operator(name, calls, calls * host / 1e6, calls * device / 1e6))
    return tuple(sorted(rows, key=lambda row: -(row.host + row.device)))
