"""NVML with GPUs that are not there: what it tells is set by the test, and any of its answers can be refused."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest


@dataclass
class FakeGpu:
    """What NVML tells of one GPU.

    Args:
        uuid: with its prefix, as NVML has it.
        processes: process id → bytes that it holds there, None where NVML does not say.
        drawing: process ids that draw there, and compute nothing.
        work: of process ids, when (`time.time()`) they were seen to use which percentage of the GPU.
        reasons: why its clocks are held down, a bit mask.
        whole: of a MIG slice, the GPU that it is part of.
    """

    uuid: str = "GPU-uuid-0"
    name: str = "NVIDIA H200"
    processes: dict[int, int | None] = field(default_factory=dict)
    drawing: list[int] = field(default_factory=list)
    work: list[tuple[int, float, int]] = field(default_factory=list)
    reasons: int = 0
    sm_mhz: int = 1980
    memory_mhz: int = 3201
    celsius: int = 40
    millijoules: int = 0
    memory_errors: int = 0
    milliwatts: int = 700_000
    ecc: bool = True
    total: int = 141 * 2**30
    whole: FakeGpu | None = None


class FakeNvml:
    """Stands for `pynvml`, by its own names; notes how often it is open.

    Args:
        refused: functions of NVML that fail, each with its error's number.
    """

    def __init__(self, gpus: list[FakeGpu], refused: dict[str, int] | None = None) -> None:
        self.gpus = gpus
        self.refused = refused or {}
        self.open = 0
        self.calls: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: self._opened(+1),
            "nvmlShutdown": lambda: self._opened(-1),
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: self.gpus[index],
            "nvmlDeviceGetHandleByUUID": self._by_uuid,
            "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
            "nvmlDeviceGetName": lambda gpu: gpu.name,
            "nvmlDeviceIsMigDeviceHandle": lambda gpu: ctypes.c_uint(gpu.whole is not None),
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda gpu: gpu.whole,
            "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: gpu.sm_mhz, 2: gpu.memory_mhz}[kind],
            "nvmlDeviceGetTemperature": lambda gpu, sensor: gpu.celsius,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: gpu.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: gpu.reasons,
            "nvmlDeviceGetTotalEccErrors": lambda gpu, kind, since: gpu.memory_errors,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: gpu.milliwatts,
            "nvmlDeviceGetEccMode": lambda gpu: [int(gpu.ecc), int(gpu.ecc)],
            "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: gpu.millijoules,
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in gpu.processes.items()
            ],
            "nvmlDeviceGetGraphicsRunningProcesses": lambda gpu: [SimpleNamespace(pid=pid) for pid in gpu.drawing],
            "nvmlDeviceGetProcessUtilization": self._work,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, self._asked(name, answer))
        return self

    def _asked(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.refused:
                raise pynvml.NVMLError(self.refused[name])
            assert self.open or name == "nvmlInit", f"{name} before NVML was opened"
            return answer(*arguments)

        return asked

    def _opened(self, step: int) -> None:
        self.open += step

    def _by_uuid(self, uuid: bytes) -> FakeGpu:
        for gpu in self.gpus:
            if gpu.uuid.encode() == uuid:
                return gpu
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def _memory(self, gpu: FakeGpu) -> SimpleNamespace:
        used = sum(held or 0 for held in gpu.processes.values())
        return SimpleNamespace(total=gpu.total, used=used, free=gpu.total - used)

    def _work(self, gpu: FakeGpu, since: int) -> list[SimpleNamespace]:
        seen = [each for each in gpu.work if each[1] * 1e6 > since]
        if not seen:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [SimpleNamespace(pid=pid, timeStamp=int(when * 1e6), smUtil=share) for pid, when, share in seen]
