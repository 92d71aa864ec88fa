"""NVML, opened for a while: it tells of NVIDIA GPUs without starting CUDA, and sets nothing.

Any of its answers may be refused by itself: for want of rights, under WSL, in a slice, on a Jetson.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from pytest_llmperf.model import Unknown

Told = TypeVar("Told")


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
        with suppress(pynvml.NVMLError):  # as where a GPU was lost meanwhile: what was told before stands
            pynvml.nvmlShutdown()


def handles(nvml: Any) -> list[Any]:
    """A handle for each GPU of this machine."""
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]


def handle(nvml: Any, index: int) -> Any:
    """What torch calls by this number: NVML counts by bus, and CUDA as CUDA_VISIBLE_DEVICES and speed will have it.

    Raises:
        NVMLError: NVML does not show it.
        AttributeError: this torch does not tell which one it is.
    """
    import torch

    uuid = torch.cuda.get_device_properties(index).uuid
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}".encode())


class Gpu:
    """One GPU, or slice of one, while NVML is open."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._whole = handle
        """Of a slice the GPU that it is part of: clocks and heat are its."""
        self.is_slice = False
        try:
            if nvml.nvmlDeviceIsMigDeviceHandle(handle):
                self.is_slice = True
                self._whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        except nvml.NVMLError:
            pass

    def sm_mhz(self) -> int | Unknown:
        """The clock of its multiprocessors."""
        return self._number("nvmlDeviceGetClockInfo", self._whole, self._nvml.NVML_CLOCK_SM)

    def memory_mhz(self) -> int | Unknown:
        """The clock of its memory."""
        return self._number("nvmlDeviceGetClockInfo", self._whole, self._nvml.NVML_CLOCK_MEM)

    def celsius(self) -> int | Unknown:
        """How warm it is."""
        return self._number("nvmlDeviceGetTemperature", self._whole, self._nvml.NVML_TEMPERATURE_GPU)

    def held_down(self) -> int | Unknown:
        """Why its clocks are lower than they might be: a mask of NVML's clocks event reasons."""
        mask = self._number("nvmlDeviceGetCurrentClocksEventReasons", self._whole)
        if isinstance(mask, Unknown):  # older drivers know them by their older name, newer ones only by this
            return self._number("nvmlDeviceGetCurrentClocksThrottleReasons", self._whole)
        return mask

    def memory_errors(self) -> int | Unknown:
        """Those that could not be corrected, since the driver was loaded."""
        kinds = self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self._nvml.NVML_VOLATILE_ECC
        return self._number("nvmlDeviceGetTotalEccErrors", self._whole, *kinds)

    def power_limit(self) -> float | Unknown:
        """Watts that it may take."""
        return _thousandths(self._number("nvmlDeviceGetEnforcedPowerLimit", self._whole))

    def ecc(self) -> bool | Unknown:
        """Whether its memory corrects errors, which takes of its bandwidth where that memory is GDDR."""
        modes = self._asked("nvmlDeviceGetEccMode", self._whole)
        return modes if isinstance(modes, Unknown) else bool(modes[0])

    def energy(self) -> float | Unknown:
        """Joules since the driver was loaded; of a slice nobody knows."""
        if self.is_slice:
            return Unknown("NVML counts the energy of whole GPUs, and this is a slice of one")
        return _thousandths(self._number("nvmlDeviceGetTotalEnergyConsumption", self._handle))

    def users(self) -> frozenset[int] | Unknown:
        """Processes that have memory there to compute or to draw, as NVML calls them."""
        listed = self._asked("nvmlDeviceGetComputeRunningProcesses", self._handle)
        if isinstance(listed, Unknown):
            return listed
        drawing = self._asked("nvmlDeviceGetGraphicsRunningProcesses", self._handle)  # slices have none
        return frozenset(process.pid for process in (*listed, *(() if isinstance(drawing, Unknown) else drawing)))

    def held(self) -> Mapping[int, int] | Unknown:
        """Bytes that each process has there; those of whom it does not say are left out."""
        listed = self._asked("nvmlDeviceGetComputeRunningProcesses", self._handle)
        if isinstance(listed, Unknown):
            return listed
        return {process.pid: int(process.usedGpuMemory) for process in listed if process.usedGpuMemory is not None}

    def used(self) -> int | Unknown:
        """Bytes of its memory in use, by whatever process."""
        memory = self._asked("nvmlDeviceGetMemoryInfo", self._handle)
        return memory if isinstance(memory, Unknown) else int(memory.used)

    def work(self, since: float) -> Mapping[int, float] | Unknown:
        """By process, the share of time for which its kernels ran at most.

        Args:
            since: only what was seen after this moment, in seconds of `time.time()`.
        """
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, int(since * 1e6))
        except self._nvml.NVMLError as error:
            if error.value in (self._nvml.NVML_ERROR_NOT_FOUND, self._nvml.NVML_SUCCESS):  # nothing was seen to run
                return {}
            return Unknown(f"NVML: {error}")
        shares: dict[int, float] = {}
        for sample in samples:
            if sample.timeStamp > since * 1e6 and sample.smUtil <= 100:  # zombies are listed with any number
                shares[sample.pid] = max(shares.get(sample.pid, 0.0), sample.smUtil / 100)
        return shares

    def _number(self, function: str, *arguments: Any) -> int | Unknown:
        told: int | Unknown = self._asked(function, *arguments)
        return told

    def _asked(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError as error:
            return Unknown(f"NVML: {error}")
        except (AttributeError, self._nvml.NVMLLibraryMismatchError):  # each version drops or lacks some names
            return Unknown(f"NVML: this version of it, or of its driver, has no {function}")


def _thousandths(value: int | Unknown) -> float | Unknown:
    return value if isinstance(value, Unknown) else value / 1000


_UNSEEN = Unknown("CUDA had been started before anyone looked who it is that starts it")
_own: int | Unknown = _UNSEEN


def own_pid(users: Collection[int] = ()) -> int | Unknown:
    """What NVML calls this process: in a container its process id on the host.

    Args:
        users: of a GPU; where its id here is among them, it need not have been seen to come.
    """
    return os.getpid() if isinstance(_own, Unknown) and os.getpid() in users else _own


def recognise(index: int, start: Callable[[], object]) -> None:
    """Start CUDA, and see who has come by that, to the GPU on which it was started.

    Args:
        index: torch's number of the GPU.
        start: makes the context there.
    """
    global _own
    before = _users()
    start()
    after = _users()
    if isinstance(before, Unknown):
        _own = before
    elif isinstance(after, Unknown):
        _own = after
    else:
        came = {uuid: users - before.get(uuid, frozenset()) for uuid, users in after.items()}
        _own = _who(came.get(_uuid(index)) or frozenset().union(*came.values()))


def _who(came: frozenset[int]) -> int | Unknown:
    """Which of these processes is this one."""
    if os.getpid() in came:
        return os.getpid()
    if len(came) == 1:
        return min(came)
    if came:
        return Unknown(f"{len(came)} processes came to the GPUs while this one started CUDA: it is one of them")
    return Unknown("NVML does not list this process")


def _users() -> Mapping[str, frozenset[int]] | Unknown:
    """The processes on each GPU of this machine, by its uuid."""
    with opened() as library:
        if isinstance(library, Unknown):
            return library
        try:
            listed = {str(library.nvmlDeviceGetUUID(each)): Gpu(library, each).users() for each in handles(library)}
        except library.NVMLError as error:
            return Unknown(f"NVML: {error}")
    refused = next((users for users in listed.values() if isinstance(users, Unknown)), None)
    return refused or {uuid: users for uuid, users in listed.items() if not isinstance(users, Unknown)}


def _uuid(index: int) -> str:
    """Of what torch calls by this number, as NVML has it; no GPU's where an older torch does not tell."""
    import torch

    return f"GPU-{getattr(torch.cuda.get_device_properties(index), 'uuid', '')}"


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
                for each in handles(library)
                for process in library.nvmlDeviceGetComputeRunningProcesses(each)
                if process.pid in pids
            ]
        except (library.NVMLError, library.NVMLLibraryMismatchError) as error:
            return Unknown(f"NVML: {error}")
    if not used:
        return Unknown(f"NVML does not list {whose} (in a container it shows the host's process ids)")
    if None in used:
        return Unknown(f"NVML does not say how much memory {whose} uses")
    return int(sum(used))


def other_processes(names: Sequence[str]) -> Mapping[int, int] | Unknown:
    """What each process but this one holds on these GPUs, by its id.

    Args:
        names: as torch has them: `cuda:0`.
    """
    held: Counter[int] = Counter()
    for each in _of_each(names, Gpu.held):
        if isinstance(each, Unknown):
            return each
        held.update(each)
    own = own_pid(held)
    if isinstance(own, Unknown):
        return own
    return {pid: size for pid, size in held.items() if pid != own}


def used_bytes(names: Sequence[str]) -> int | Unknown:
    """What is in use on these GPUs, whosever it is; `names` as torch has them."""
    total = 0
    for each in _of_each(names, Gpu.used):
        if isinstance(each, Unknown):
            return each
        total += each
    return total


def _of_each(names: Sequence[str], read: Callable[[Gpu], Told | Unknown]) -> list[Told | Unknown]:
    with opened() as library:
        if isinstance(library, Unknown):
            return [library]
        try:
            return [read(Gpu(library, handle(library, int(name.partition(":")[2])))) for name in names]
        except (library.NVMLError, AttributeError) as error:  # an old torch knows no uuid
            return [Unknown(f"NVML: {error}")]
