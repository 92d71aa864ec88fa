"""The operator profile: which operators ran in each phase, how often, and how long they took in themselves."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_llmperf.model import Operator, Phase, Unknown
from pytest_llmperf.profiling import NO_OPERATOR, NOT_BY_TOKEN, ONE_TOKEN
from pytest_llmperf.targets import Request, Target

_MARK = "llmperf step"
_OPERATOR = re.compile(r"^\w+::")
_READ = "aten::_local_scalar_dense"
_WAIT = re.compile(r"^(cuda|cu|hip)\w*Synchronize")
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
    """Serve the request once more under `torch.profiler`.

    Decode is the mean of its steps but the first, which sets up what the others find ready.

    Args:
        trace: where a Chrome trace goes, which TensorBoard opens too.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints USDT lines on descriptor 2
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as profiling

    if busy := _profiler_busy():
        return Profiled.unseen(busy)

    def mark() -> None:
        with record_function(_MARK):
            pass

    on_device = target.device.name.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    target.device.synchronize()
    with profiling(activities=activities) as seen:
        hidden = target.step_through(request, mark)
        target.device.synchronize()
    if trace is not None:
        seen.export_chrome_trace(str(trace))
    events = [event for event in seen.events() or () if not event.is_async]
    marks = sorted(event.time_range.start for event in events if event.name == _MARK)
    if not hidden and len(marks) != request.workload.output_tokens:
        hidden = NOT_BY_TOKEN
    if not hidden and not any(_OPERATOR.match(event.name) for event in events):
        hidden = NO_OPERATOR
    if hidden:
        return Profiled.unseen(hidden)
    began = min(event.time_range.start for event in events)
    steady = marks[1:] if len(marks) > 2 else marks  # from where, and to where
    decode = _phase(events, steady[0], steady[-1], len(steady) - 1, on_device) if len(marks) > 1 else _unseen(ONE_TOKEN)
    return Profiled(_phase(events, began, marks[0], 1, on_device), decode)


def _profiler_busy() -> Unknown | None:
    """Why what is seen would not be the model alone; a second profiler would also end the first one."""
    import torch
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    if torch._C._autograd._profiler_enabled():
        return Unknown("a profiler of torch is running already", by_chance=True)
    if (mode := _get_current_dispatch_mode()) is not None:
        return Unknown(f"{type(mode).__name__} is active, whose operators would be counted too", by_chance=True)
    return None


def _unseen(why: Unknown) -> Phase:
    return Phase(why, why, why, why)


def _phase(events: Iterable[Any], start: float, end: float, steps: int, on_device: bool) -> Phase:
    """What began on the host between two moments, in microseconds, per step."""
    within = [event for event in events if _on_host(event) and start <= event.time_range.start < end]
    own = [event for event in within if event.name != _MARK]
    leaves = sum(1 for event in own if _OPERATOR.match(event.name) and not _calls_operators(event))
    waits = sum(1 for event in own if event.name == _READ or (_WAIT.match(event.name) and not _reads(event)))
    launches = sum(1 for event in own if _LAUNCH.match(event.name))
    return Phase(
        ops=leaves / steps,
        syncs=waits / steps,
        kernels=launches / steps if on_device else _NO_DEVICE,
        seconds=(end - start) / 1e6 / steps,
        operators=_rows(own, steps),
    )


def _on_host(event: Any) -> bool:
    return bool(event.device_type.name == "CPU")


def _calls_operators(event: Any) -> bool:
    return any(_OPERATOR.match(child.name) for child in event.cpu_children)


def _reads(event: Any) -> bool:
    """Whether a wait belongs to the reading of a scalar, which counts by itself."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name == _READ:
            return True
        parent = parent.cpu_parent
    return False


def _rows(events: Iterable[Any], steps: int) -> tuple[Operator, ...]:
    by_name: dict[str, list[Any]] = defaultdict(list)
    for event in events:
        by_name[event.name].append(event)
    rows = [
        Operator(
            name,
            calls=len(same) / steps,
            host=sum(event.self_cpu_time_total for event in same) / 1e6 / steps,
            device=sum(event.self_device_time_total for event in same) / 1e6 / steps,
        )
        for name, same in by_name.items()
    ]
    return tuple(sorted(rows, key=lambda row: -(row.host + row.device)))
