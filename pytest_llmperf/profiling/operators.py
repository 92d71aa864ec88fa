"""The operator profile: which operators ran in each phase, how often, and how long they took in themselves."""

from __future__ import annotations

import os
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pytest_llmperf.model import Operator, Phase, Unknown
from pytest_llmperf.profiling import NO_OPERATOR, NOT_BY_TOKEN, NOT_IN_DECODE, ONE_TOKEN
from pytest_llmperf.profiling.busy import busy
from pytest_llmperf.roles import is_operator, is_wait
from pytest_llmperf.targets import Request, Target

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


def profile(target: Target, request: Request, trace: Path | None = None) -> Profiled:
    """Serve the request once more under `torch.profiler`, and its prefill twice.

    Decode is its steps but the first, which sets up what the others find ready. Calls are means of what was seen, and
    times medians of steps, the shorter ones of both prefills: the processor may have been taken away in any.

    Args:
        trace: where a Chrome trace goes, which TensorBoard opens too.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints USDT lines on descriptor 2
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as profiling

    if occupied := busy():
        return Profiled.unseen(occupied)

    def mark() -> None:
        with record_function(_MARK):
            pass

    on_device = target.device.name.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    target.device.synchronize()
    with profiling(activities=activities) as seen:
        hidden = target.step_through(request, mark)
        mark()
        if hidden is None:
            target.step_through(request.shorter(1), mark)
        target.device.synchronize()
    if trace is not None:
        seen.export_chrome_trace(str(trace))
    events = [event for event in seen.events() or () if not event.is_async]
    marks = sorted(event.time_range.start for event in events if event.name == _MARK and _on_host(event))
    tokens = request.workload.output_tokens
    if not hidden and len(marks) != tokens + 2:
        hidden = NOT_BY_TOKEN
    if not hidden and not any(is_operator(event.name) for event in events):
        hidden = NO_OPERATOR
    if hidden:
        return Profiled.unseen(hidden)
    began = min(event.time_range.start for event in events)
    steps = list(pairwise(marks[:tokens]))
    decode = _phase(events, steps[1:] or steps, on_device, statistics.median) if steps else _unseen(ONE_TOKEN)
    if decode.ops == 0:
        return Profiled.unseen(NOT_IN_DECODE)
    return Profiled(_phase(events, [(began, marks[0]), (marks[-2], marks[-1])], on_device, min), decode)


def _unseen(why: Unknown) -> Phase:
    return Phase(why, why, why, why)


def _phase(
    events: Iterable[Any],
    spans: Sequence[tuple[float, float]],
    on_device: bool,
    typical: Callable[[Sequence[float]], float],
) -> Phase:
    """What began on the host within each span, in microseconds.

    Args:
        typical: of times that differ from span to span.
    """
    host = [event for event in events if _on_host(event) and event.name != _MARK]
    by_span = [[event for event in host if start <= event.time_range.start < end] for start, end in spans]
    own = [event for within in by_span for event in within]
    leaves = sum(1 for event in own if is_operator(event.name) and not _calls_operators(event))
    waits = sum(1 for event in own if event.name == _READ or (is_wait(event.name) and not _reads(event)))
    launches = sum(1 for event in own if _LAUNCH.match(event.name))
    rows = _rows(by_span, typical)
    on_host = typical([end - start for start, end in spans]) / 1e6
    return Phase(
        ops=leaves / len(spans),
        syncs=waits / len(spans),
        kernels=launches / len(spans) if on_device else _NO_DEVICE,
        seconds=max(on_host, sum(row.device for row in rows)),  # a device may go on after the host has launched all
        operators=rows,
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


def _rows(by_span: Sequence[Sequence[Any]], typical: Callable[[Sequence[float]], float]) -> tuple[Operator, ...]:
    same: dict[str, list[list[Any]]] = defaultdict(lambda: [[] for _ in by_span])
    for span, events in enumerate(by_span):
        for event in events:
            same[event.name][span].append(event)
    rows = [
        Operator(
            name,
            calls=sum(map(len, seen)) / len(seen),
            host=typical([sum(event.self_cpu_time_total for event in events) for events in seen]) / 1e6,
            device=typical([sum(event.self_device_time_total for event in events) for events in seen]) / 1e6,
        )
        for name, seen in same.items()
    ]
    return tuple(sorted(rows, key=lambda row: -(row.host + row.device)))
