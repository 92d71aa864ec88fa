"""Memory, measured in a pass of its own: the instruments would be seen in the times."""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_llmperf import nvml
from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.model import Memory, Unknown
from pytest_llmperf.targets import Request, Target

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): reset the peak resident set size to the current value
_SAMPLE_EVERY_S = 0.005
_NO_TIME: int | Unknown = Unknown("one call alone takes longer than the time allowed for memory", by_chance=True)


def memory_pass(target: Target, request: Request, clock: Callable[[], float], twice: bool) -> Memory:
    """Serve the request once for the cache's size and once more for what a call leaves behind.

    The peak is taken over both calls, so that memory leaked by the first raises it in the second.

    Args:
        twice: whether there is time for the second call.
    """
    weights = target.weights_bytes()
    if isinstance(weights, Unknown):  # then nothing else of the model can be seen either
        return Memory(weights, weights, weights, weights, target.device.reserved_bytes(), process_gpu_bytes(target))
    gc.collect()
    second = None
    with collector_quiet():  # what a call makes stays young, and can be collected without looking at all there is
        with target.device.track_memory() as first:
            kv_cache = target.kv_cache_bytes(request)
            gc.collect(0)
        if twice:
            with target.device.track_memory() as second:
                target.run(request, clock)
                gc.collect(1)  # with what the first call left to the second
    peak, leaked = first.peak, _NO_TIME
    if second is not None:
        leaked = second.end
        if isinstance(first.end, int) and isinstance(first.peak, int) and isinstance(second.peak, int):
            peak = max(first.peak, first.end + second.peak)
    return Memory(
        weights=weights,
        kv_cache=kv_cache,
        peak_growth=peak,
        leaked_per_call=leaked,
        reserved=target.device.reserved_bytes(),
        process_gpu=process_gpu_bytes(target),
    )


@dataclasses.dataclass
class PeakRss:
    """Peak resident set of this process, in bytes, filled when its stretch ends."""

    value: int | Unknown = Unknown("the stretch has not ended")


@contextmanager
def peak_rss() -> Iterator[PeakRss]:
    """Watch the resident set: exactly by the kernel's high-water mark where there is one, else by sampling."""
    peak = PeakRss()
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        with _sampled_rss(peak):
            yield peak
        return
    yield peak
    match = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    peak.value = int(match[1]) * 1024 if match else Unknown("/proc/self/status shows no VmHWM")


@contextmanager
def _sampled_rss(peak: PeakRss) -> Iterator[None]:
    import psutil

    process = psutil.Process()
    seen = [process.memory_info().rss]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_EVERY_S):
            seen.append(process.memory_info().rss)

    sampler = threading.Thread(target=sample, name="llmperf-rss", daemon=True)
    sampler.start()
    try:
        yield
    finally:
        done.set()
        sampler.join()
        peak.value = max(*seen, process.memory_info().rss)


def process_gpu_bytes(target: Target) -> int | Unknown:
    """What NVML attributes to this process on all GPUs."""
    if not target.device.name.startswith("cuda"):
        return Unknown("the target is not on a CUDA device")
    with nvml.opened() as library:
        if isinstance(library, Unknown):
            return library
        try:
            return _process_bytes(library)
        except library.NVMLError as error:
            return Unknown(f"NVML: {error}")


def _process_bytes(library: Any) -> int | Unknown:
    used = [
        process.usedGpuMemory
        for handle in nvml.handles(library)
        for process in library.nvmlDeviceGetComputeRunningProcesses(handle)
        if process.pid == os.getpid()
    ]
    if not used:
        return Unknown("NVML does not list this process (in a container it shows the host's process ids)")
    if None in used:
        return Unknown("NVML does not say how much memory this process uses")
    return int(sum(used))
