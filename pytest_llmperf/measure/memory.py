"""Memory, measured in a pass of its own: the instruments would be seen in the times."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pytest_llmperf import nvml
from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.model import Memory, Unknown
from pytest_llmperf.resident import ResidentSet
from pytest_llmperf.targets import Request, Target
from pytest_llmperf.targets.device import Cuda

_SAMPLE_EVERY_S = 0.005
_NO_TIME: int | Unknown = Unknown("one call alone takes longer than the time allowed for memory", by_chance=True)


def memory_pass(target: Target, request: Request, clock: Callable[[], float], twice: bool) -> Memory:
    """Serve the request once for the cache's size and once more for what a call leaves behind.

    The peaks are taken over both calls, so that memory leaked by the first raises them in the second. What earlier
    work left with the device's allocator is handed back first: it is not reserved for this.

    Args:
        twice: whether there is time for the second call.
    """
    weights = target.weights_bytes()
    if isinstance(weights, Unknown):  # then nothing else of the model can be seen either
        seen = dict.fromkeys((field.name for field in dataclasses.fields(Memory)), weights)
        return Memory(**{**seen, "process_gpu": process_gpu_bytes(target), "device_gpu": device_gpu_bytes(target)})
    gc.collect()
    target.device.release()
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
    stretches = [first] if second is None else [first, second]
    reserved = _highest([stretch.reserved for stretch in stretches])
    allocated = _highest([stretch.allocated for stretch in stretches])
    return Memory(
        weights=weights,
        kv_cache=kv_cache,
        peak_growth=peak,
        leaked_per_call=leaked,
        reserved=reserved,
        fragmentation=_less(reserved, allocated),
        process_gpu=process_gpu_bytes(target),
        device_gpu=device_gpu_bytes(target),
    )


def _highest(peaks: Sequence[int | Unknown]) -> int | Unknown:
    unknown = [peak for peak in peaks if isinstance(peak, Unknown)]
    return unknown[0] if unknown else max(peak for peak in peaks if not isinstance(peak, Unknown))


def _less(one: int | Unknown, other: int | Unknown) -> int | Unknown:
    if isinstance(one, Unknown):
        return one
    return other if isinstance(other, Unknown) else one - other


@dataclasses.dataclass
class PeakRss:
    """Peak resident set of this process, in bytes, filled when its stretch ends."""

    value: int | Unknown = Unknown("the stretch has not ended")


@contextmanager
def peak_rss() -> Iterator[PeakRss]:
    """Watch the resident set."""
    peak = PeakRss()
    watched = ResidentSet(lambda: [os.getpid()], _SAMPLE_EVERY_S)
    try:
        yield peak
    finally:
        peak.value = watched.peak()
        watched.close()


def process_gpu_bytes(target: Target) -> int | Unknown:
    """What NVML attributes to this process on all GPUs."""
    if not isinstance(target.device, Cuda):
        return _NOT_ON_CUDA
    own = nvml.own_pid()
    return nvml.process_bytes([os.getpid() if isinstance(own, Unknown) else own], "this process")


def device_gpu_bytes(target: Target) -> int | Unknown:
    """What is in use on the GPUs that hold the model, by NVML."""
    if not isinstance(target.device, Cuda):
        return _NOT_ON_CUDA
    return nvml.used_bytes(target.device.names)


_NOT_ON_CUDA = Unknown("the target is not on a CUDA device")
