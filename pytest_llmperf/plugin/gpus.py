"""Which GPUs each worker of xdist sees, and what they are called in all of them."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_llmperf import nvml
from pytest_llmperf.model import Unknown
from pytest_llmperf.names import gpu_indices

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SLICE = "MIG-"
_DRIVER = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""One of these is on every Linux with NVIDIA's driver, WSL included."""


def of_workers(count: int) -> list[str]:
    """What the variable is to be for each of so many workers; nothing where there is nothing to share out.

    Own GPU first, and the others after it: `cuda` is the worker's own, and a test over several GPUs sees them all.
    """
    named = visible()
    places = _installed() if named is None else named
    return [_own_first(places, number % len(places)) for number in range(count)] if len(places) > 1 else []


def visible() -> list[str] | None:
    """What the variable names; None where it is not set. CUDA sees nothing behind an entry that names no GPU."""
    told = os.environ.get(VISIBLE)
    if told is None:
        return None
    entries = (entry.strip() for entry in told.split(","))
    return list(itertools.takewhile(lambda entry: entry.isdecimal() or entry.startswith(("GPU-", _SLICE)), entries))


def names_of(device: str) -> list[str]:
    """What names the GPUs of a device, each once, the same in all workers, in an order that is the same too.

    Args:
        device: `cuda:0`, or `cuda:0,1` for a target spread over GPUs.
    """
    seen = visible() or []
    return sorted({seen[index] if index < len(seen) else str(index) for index in gpu_indices(device)})


def _own_first(places: Sequence[str], own: int) -> str:
    """With MIG a process can use a single slice: beside its own it needs none, and beside a whole GPU it sees none."""
    if places[own].startswith(_SLICE):
        return places[own]
    return ",".join(place for place in (*places[own:], *places[:own]) if not place.startswith(_SLICE))


def _installed() -> list[str]:
    """GPUs and slices of GPUs by ids of their own: NVML numbers them by their place on the bus, and CUDA does not."""
    if sys.platform == "linux" and not any(each.exists() for each in _DRIVER):
        return []  # without the 30 ms that NVML's Python takes to import
    with nvml.opened() as library:
        if isinstance(library, Unknown):
            return []
        try:
            return [
                str(library.nvmlDeviceGetUUID(each)) for gpu in nvml.handles(library) for each in _parts(library, gpu)
            ]
        except library.NVMLError:
            return []


def _parts(library: Any, gpu: Any) -> list[Any]:
    """The slices of a GPU that is divided by MIG; else itself."""
    try:
        divided = library.nvmlDeviceGetMigMode(gpu)[0] == library.NVML_DEVICE_MIG_ENABLE
    except library.NVMLError:  # most GPUs know no MIG
        divided = False
    if not divided:
        return [gpu]
    slices = []
    for index in range(library.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            slices.append(library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
        except library.NVMLError_NotFound:
            continue
    return slices
