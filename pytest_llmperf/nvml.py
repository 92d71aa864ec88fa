"""NVML, opened for a moment: it tells of NVIDIA GPUs without starting CUDA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pytest_llmperf.model import Unknown


@contextmanager
def opened() -> Iterator[Any | Unknown]:
    """The module `pynvml`, initialised; or why it cannot be."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Unknown(f"NVML: {error}")
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def handles(nvml: Any) -> list[Any]:
    """A handle for each GPU of this machine."""
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]


def process_bytes(pids: Collection[int], whose: str) -> int | Unknown:
    """What NVML attributes to processes on all GPUs.

    Args:
        whose: what messages call them.
    """
    with opened() as library:
        if isinstance(library, Unknown):
            return library
        try:
            used = [
                process.usedGpuMemory
                for handle in handles(library)
                for process in library.nvmlDeviceGetComputeRunningProcesses(handle)
                if process.pid in pids
            ]
        except library.NVMLError as error:
            return Unknown(f"NVML: {error}")
    if not used:
        return Unknown(f"NVML does not list {whose} (in a container it shows the host's process ids)")
    if None in used:
        return Unknown(f"NVML does not say how much memory {whose} uses")
    return int(sum(used))


def other_processes(uuids: Sequence[str]) -> Mapping[int, int] | Unknown:
    """What each other process computes with on these GPUs, by its id; those of whom NVML does not say are left out."""
    own = own_pid()
    if isinstance(own, Unknown):
        return own
    held: Counter[int] = Counter()
    with opened() as library:
        if isinstance(library, Unknown):
            return library
        try:
            for uuid in uuids:
                handle = library.nvmlDeviceGetHandleByUUID(uuid.encode())
                for process in library.nvmlDeviceGetComputeRunningProcesses(handle):
                    held[process.pid] += process.usedGpuMemory or 0
        except library.NVMLError as error:
            return Unknown(f"NVML: {error}")
    return {pid: size for pid, size in held.items() if size and pid != own}


def used_bytes(uuids: Sequence[str]) -> int | Unknown:
    """What is in use on these GPUs, by whatever process."""
    with opened() as library:
        if isinstance(library, Unknown):
            return library
        try:
            gpus = [library.nvmlDeviceGetHandleByUUID(uuid.encode()) for uuid in uuids]
            return sum(int(library.nvmlDeviceGetMemoryInfo(gpu).used) for gpu in gpus)
        except library.NVMLError as error:
            return Unknown(f"NVML: {error}")
