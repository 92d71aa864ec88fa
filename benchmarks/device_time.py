"""Is device time by events what the host sees, and what a profiler's trace says?

Two ratios of each target's decode, and one of its prefill, all of a device that has a clock of its own:

    host     events over the host's arrivals, from the first token to the last, of generations as they are measured
    trace    events over a trace of `torch.profiler`, both of the same generation, since the profiler slows it down

An event is passed when the host has asked for it and all that was launched before it has ended; the trace shows both.
Without such a device prefill alone is compared, by the host's clock.

    python benchmarks/device_time.py [--device auto] [--dtype bfloat16] [--repeats 3] [--json FILE] [TARGET …]
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from overhead import GPT2_SMALL
from rich.console import Console
from rich.table import Table

from pytest_llmperf.measure import collector_quiet, torch_threads
from pytest_llmperf.model import Trace, Unknown, Workload
from pytest_llmperf.targets import LoadOptions, Request, resolve
from pytest_llmperf.targets.device import Stamp

BAR = (0.99, 1.01)
MARK = "llmperf stamp"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHING = ("cuda_runtime", "cuda_driver")
FIGURES = {
    "host": "decode: events / host",
    "prefill": "prefill: events / trace",
    "decode": "decode: events / trace",
}

Events = Iterable[Mapping[str, Any]]


class Marked:
    """A device whose stamps can be found in a trace."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def stamp(self, clock: Callable[[], float]) -> Stamp:
        from torch.profiler import record_function

        with record_function(MARK):
            return self._device.stamp(clock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


def moments(events: Events) -> list[float]:
    """When each stamp was passed, in seconds, by the events of a Chrome trace."""
    having = [event for event in events if "ts" in event and "dur" in event]
    ended = {_correlation(event): _end(event) for event in having if event.get("cat") in ON_DEVICE}
    launches = sorted(
        (event["ts"], ended[_correlation(event)])
        for event in having
        if event.get("cat") in LAUNCHING and _correlation(event) in ended
    )
    began = [ts for ts, _ in launches]
    latest = list(itertools.accumulate((end for _, end in launches), max, initial=0.0))
    asked = sorted(_end(event) for event in having if (event.get("cat"), event["name"]) == ("user_annotation", MARK))
    return [max(mark, latest[bisect.bisect_left(began, mark)]) / 1e6 for mark in asked]


def _correlation(event: Mapping[str, Any]) -> int | None:
    correlation: int | None = event.get("args", {}).get("correlation")
    return correlation


def _end(event: Mapping[str, Any]) -> float:
    return float(event["ts"]) + float(event["dur"])


def against_host(trace: Trace) -> float | None:
    """Of a device without a clock of its own there is nothing to compare."""
    return span(trace.device_arrivals) / span(trace.arrivals) if trace.device_arrivals else None


def span(times: tuple[float, ...]) -> float:
    return times[-1] - times[0]


def profiled(target: Any, request: Request) -> dict[str, float | None]:
    """Events over trace, of one generation."""
    from torch.profiler import ProfilerActivity, profile

    own, target.device = target.device, Marked(target.device)
    on_device = [ProfilerActivity.CUDA] if own.name.startswith("cuda") else []
    try:
        with profile(activities=[ProfilerActivity.CPU, *on_device]) as seen:
            trace = target.run(request, time.perf_counter)
            own.synchronize()
    finally:
        target.device = own
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(file))
        passed = moments(json.loads(file.read_text())["traceEvents"])
    assert not isinstance(trace.prefill, Unknown), trace.prefill.reason
    first = -len(trace.arrivals)  # a stamp of each step comes last
    decode = span(trace.device_arrivals) / (passed[-1] - passed[first]) if trace.device_arrivals else None
    return {"prefill": trace.prefill / (passed[1] - passed[0]), "decode": decode}


def found(target: Any, workload: Workload, repeats: int) -> dict[str, float | None]:
    """The median of each ratio; None where there is nothing to compare."""
    requests = (target.request(workload, seed) for seed in itertools.count())
    target.run(next(requests), time.perf_counter)
    with collector_quiet():
        plain = [{"host": against_host(target.run(next(requests), time.perf_counter))} for _ in range(repeats)]
        traced = [profiled(target, next(requests)) for _ in range(repeats)]
    merged = [one | other for one, other in zip(plain, traced, strict=True)]
    return {name: median([each[name] for each in merged]) for name in FIGURES}


def median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=[GPT2_SMALL], metavar="TARGET")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parsed = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints USDT lines on descriptor 2
    table = Table("target", *FIGURES.values(), title=f"1 is equal; the bar is {BAR[0]}–{BAR[1]}")
    kept: dict[str, dict[str, float | None]] = {}
    workload = Workload(parsed.prompt_tokens, parsed.output_tokens)
    for name in parsed.targets:
        target = resolve(name).load(LoadOptions(parsed.device, parsed.dtype))
        with torch_threads(1):
            kept[name] = found(target, workload, parsed.repeats)
        del target
        if parsed.json:
            parsed.json.write_text(json.dumps(kept))
        table.add_row(name, *("–" if ratio is None else f"{ratio:.4f}" for ratio in kept[name].values()))
    Console(width=160).print(table)
    ratios = [ratio for each in kept.values() for ratio in each.values() if ratio is not None]
    return int(not all(BAR[0] <= ratio <= BAR[1] for ratio in ratios))


if __name__ == "__main__":
    raise SystemExit(main())
