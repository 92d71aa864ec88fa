"""What a device can tell about time and memory. The only place that calls `torch.cuda`.

Device time is read from stamps: `stamp()` never waits, and `seconds()` is asked after the round.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_llmperf import ranks
from pytest_llmperf.errors import DeviceMissingError, OutOfMemoryTargetError
from pytest_llmperf.model import Unknown
from pytest_llmperf.names import check_gpus, device_name, gpu_indices
from pytest_llmperf.nvml import recognise

Stamp = Any
"""A moment on the device: a clock reading on CPU, an event per GPU on CUDA."""


_NOT_ENDED = Unknown("the stretch has not ended")


@dataclass
class MemoryTrack:
    """Memory of a device over one stretch of work; filled when it ends.

    Args:
        peak: of live tensor bytes, relative to the start.
        end: live tensor bytes at the end, relative to the start.
        reserved: peak of what the device's allocator took.
        allocated: peak of its blocks that were in use.
    """

    peak: int | Unknown = _NOT_ENDED
    end: int | Unknown = _NOT_ENDED
    reserved: int | Unknown = _NOT_ENDED
    allocated: int | Unknown = _NOT_ENDED


@dataclass(frozen=True)
class Room:
    """Memory of one GPU, or of the host, at one moment.

    Args:
        name: `cpu`, `cuda:0`, …
        own: bytes that this process holds there, by what they are.
    """

    name: str
    total: int
    free: int
    own: Mapping[str, int]


class Device(Protocol):
    """One device type; a model spread over several GPUs has one object for all of them."""

    @property
    def name(self) -> str:
        """`cpu`, `cuda:0`, `cuda:0,1`, …"""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """One for each GPU; of anything else its name."""
        ...

    @property
    def has_own_clock(self) -> bool:
        """Whether work on the device is timed by its own events, apart from the host."""
        ...

    def stamp(self, clock: Callable[[], float]) -> Stamp:
        """Mark this moment in the device's queue, without waiting for it."""
        ...

    def seconds(self, start: Stamp, end: Stamp) -> float:
        """Time between two stamps. Waits for the device."""
        ...

    def synchronize(self) -> None: ...

    def track_memory(self) -> Any:
        """Context manager giving a `MemoryTrack`."""
        ...

    def held_bytes(self) -> int | Unknown:
        """What tensors hold at this moment, read without waiting; on the CPU the process's resident set."""
        ...

    def rooms(self) -> Sequence[Room]:
        """Memory of each place that it is made of, where that can be told."""
        ...

    def available_bytes(self) -> int | Unknown:
        """Bytes that a new target may take."""
        ...

    def release(self) -> None:
        """Hand cached, unused memory back."""
        ...


class HostTime:
    """What has no clock of its own: its stamps are the host's, and nothing runs behind the host's back."""

    has_own_clock = False

    def stamp(self, clock: Callable[[], float]) -> float:
        return clock()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None:
        """All is done when a call returns."""


class Cpu(HostTime):
    """Host time; tensor memory from the profiler's allocation events, exact to the byte."""

    name = "cpu"
    names = (name,)

    @contextmanager
    def track_memory(self) -> Iterator[MemoryTrack]:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints USDT lines on descriptor 2
        from torch.profiler import ProfilerActivity, profile

        if profiler_running():
            yield MemoryTrack(PROFILER_RUNNING, PROFILER_RUNNING, _NO_RESERVE, _NO_RESERVE)
            return
        track = MemoryTrack(reserved=_NO_RESERVE, allocated=_NO_RESERVE)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            yield track
        try:
            events = profiled.profiler.kineto_results.events()  # private: hence the guard
            changes = [event.nbytes() for event in events if event.name() == "[memory]"]
        except AttributeError as error:
            track.peak = track.end = Unknown(f"this torch does not show allocation events ({error})")
            return
        track.peak, track.end = _peak_and_end(changes)

    def held_bytes(self) -> int:
        import psutil

        return int(psutil.Process().memory_info().rss)

    def rooms(self) -> tuple[Room]:
        import psutil

        memory = psutil.virtual_memory()
        return (Room(self.name, int(memory.total), int(memory.available), {"resident": self.held_bytes()}),)

    def available_bytes(self) -> int:
        import psutil

        return int(psutil.virtual_memory().available)

    def release(self) -> None:
        """Freed tensors are gone at once."""


_NO_RESERVE = Unknown("the CPU allocator reserves nothing")
PROFILER_RUNNING = Unknown("a profiler of torch is running already", by_chance=True)


def profiler_running() -> bool:
    """Whether there is one in this thread: a second one would end it, and take what it has seen."""
    import torch

    return bool(torch._C._autograd._profiler_enabled())


def _peak_and_end(changes: Sequence[int]) -> tuple[int, int]:
    live = peak = 0
    for change in changes:
        live += change
        peak = max(peak, live)
    return peak, live


class Cuda:
    """Device time by events, memory by the caching allocator, over all GPUs that hold the model."""

    has_own_clock = True

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.name = "cuda:" + ",".join(name.removeprefix("cuda:") for name in self.names)

    def stamp(self, clock: Callable[[], float]) -> list[Any]:
        import torch

        events = []
        for name in self.names:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no types here
            event.record(torch.cuda.current_stream(name))
            events.append(event)
        return events

    def seconds(self, start: list[Any], end: list[Any]) -> float:
        # Work that passes from GPU to GPU ends on the last of them; the others' end events come earlier.
        for event in end:
            event.synchronize()
        return float(max(first.elapsed_time(last) for first, last in zip(start, end, strict=True))) / 1e3

    def synchronize(self) -> None:
        import torch

        for name in self.names:
            torch.cuda.synchronize(name)

    @contextmanager
    def track_memory(self) -> Iterator[MemoryTrack]:
        import torch

        self.synchronize()
        before = self._total(lambda name: _requested(name, "current"))
        for name in self.names:
            torch.cuda.reset_peak_memory_stats(name)
        track = MemoryTrack()
        yield track
        self.synchronize()
        track.peak = self._total(lambda name: _requested(name, "peak")) - before
        track.end = self._total(lambda name: _requested(name, "current")) - before
        track.reserved = self._total(torch.cuda.max_memory_reserved)
        splits = torch.cuda.get_allocator_backend() == "native"
        track.allocated = self._total(torch.cuda.max_memory_allocated) if splits else _NO_BLOCKS

    def held_bytes(self) -> int:
        import torch

        return self._total(torch.cuda.memory_allocated)

    def rooms(self) -> list[Room]:
        import torch

        rooms = []
        for name in self.names:
            free, total = torch.cuda.mem_get_info(name)
            own = {"reserved": torch.cuda.memory_reserved(name), "live": torch.cuda.memory_allocated(name)}
            rooms.append(Room(name, total, free, own))
        return rooms

    def available_bytes(self) -> int:
        return sum(self.max_memory().values())

    def max_memory(self) -> dict[int, int]:
        """Bytes that a new target may take, by the GPU's number."""
        return {gpu_indices(name)[0]: _available(name) for name in self.names}

    def release(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def _total(self, read: Callable[[str], int]) -> int:
        return sum(read(name) for name in self.names)


def _available(name: str) -> int:
    """What nobody has of a GPU, and what this process's allocator keeps unused."""
    import torch

    unused = torch.cuda.memory_reserved(name) - torch.cuda.memory_allocated(name)
    return int(torch.cuda.mem_get_info(name)[0]) + unused


_NO_BLOCKS = Unknown("the allocator backend cudaMallocAsync leaves blocks to the driver, which does not tell of them")


def _requested(name: str, moment: str) -> int:
    """Bytes that tensors asked for, `current` or `peak`; blocks may be larger, by what was freed before them."""
    import torch

    figures = torch.cuda.memory_stats(name)
    requested = int(figures.get(f"requested_bytes.all.{moment}", 0))
    return requested or int(figures.get(f"allocated_bytes.all.{moment}", 0))  # cudaMallocAsync tells only these


class Mps:
    """Apple GPUs: host time only, and no allocator peak.

    transformers from 5.23 on streams tokens one step late there, so that `ttft_ms` holds a step too much.
    """

    name = "mps"
    names = (name,)
    has_own_clock = False

    def stamp(self, clock: Callable[[], float]) -> float:
        self.synchronize()
        return clock()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None:
        import torch

        torch.mps.synchronize()

    @contextmanager
    def track_memory(self) -> Iterator[MemoryTrack]:
        live, reserved = (Unknown(f"mps offers no peak of {what} bytes") for what in ("live tensor", "reserved"))
        yield MemoryTrack(live, live, reserved, reserved)

    def held_bytes(self) -> int:
        import torch

        return int(torch.mps.current_allocated_memory())

    def rooms(self) -> tuple[()]:
        return ()

    def available_bytes(self) -> Unknown:
        return Unknown("mps offers no free memory")

    def release(self) -> None:
        import torch

        torch.mps.empty_cache()


def device_of(name: str, gpus: int | None = None) -> Device:
    """The device of that name; `auto` is the first of cuda, mps and cpu that is there.

    Each rank has a GPU of its own, where none is named.

    Args:
        gpus: so many of them, the named or current one and then the others in their order.

    Raises:
        DeviceMissingError: it is not on this machine, or has fewer GPUs.
        OutOfMemoryTargetError: other processes have taken all of its memory.
        UsageError: it is no GPU, and some were asked for.
    """
    import torch

    kind, _, index = device_name(name).partition(":")
    if gpus is not None:
        check_gpus(gpus, name)
        kind = "cuda"
    has_mps = torch.backends.mps.is_available()
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if kind == "cpu":
        return Cpu()
    if kind == "mps":
        if not has_mps:
            raise DeviceMissingError(f"device={name!r}: torch {torch.__version__} sees no Apple GPU here")
        return Mps()
    if not index and ranks.world() > 1:
        index = str(ranks.local_rank())
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen = f"torch {torch.__version__} sees {count} CUDA device{'s' * (count != 1)} on this machine"
    if gpus is not None and gpus > count:
        raise DeviceMissingError(f"gpus={gpus}: {seen}")
    if int(index or 0) >= count:
        raise DeviceMissingError(f"device={name!r}: {seen}; 'auto' takes what is there")
    own = int(index) if index else _current()
    in_order = [own, *(other for other in range(count) if other != own)]
    device = Cuda([f"cuda:{each}" for each in sorted(in_order[: gpus or 1])])
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types here
        try:
            recognise(own, device.synchronize)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            raise OutOfMemoryTargetError(
                f"{device.name} has not even memory for CUDA's own context: other processes hold it"
            ) from error
    return device


def _current() -> int:
    """What `cuda` is to this process: the first GPU, until CUDA is started; to ask which is current would start it."""
    import torch

    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]


def devices_of_model(model: Any, asked: Device) -> Device:
    """The device object for where a model's weights really lie (`device_map` may have spread them)."""
    places = {place_of(parameter) for parameter in model.parameters()} - {"meta"}
    if not places or places == set(asked.names):
        return asked
    gpus = {index for place in places if place.startswith("cuda") for index in gpu_indices(place)}
    if gpus:
        return Cuda([f"cuda:{index}" for index in sorted(gpus)])
    return device_of(min(places))


def place_of(tensor: Any) -> str:
    """What its device is called here: `cuda:1`, and without a number what there is but one of: `mps`."""
    name = str(tensor.device)
    return name if name.startswith("cuda") else name.partition(":")[0]
