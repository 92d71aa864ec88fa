"""NVML, opened for a moment: it tells of NVIDIA GPUs without starting CUDA."""

from __future__ import annotations

from collections.abc import Iterator
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
