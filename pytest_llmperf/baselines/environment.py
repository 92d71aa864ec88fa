"""The machine and the software, as recorded with every measurement. Imports nothing heavy by itself."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from pytest_llmperf.model import Environment
from pytest_llmperf.targets import Target

RECORDED = ("torch", "transformers", "accelerate", "numpy")


def environment_of(target: Target, threads: int | None) -> Environment:
    """The environment in which a loaded target is measured."""
    return Environment(
        device=target.device.name,
        device_name=device_name(target.device.name),
        dtype=target.dtype,
        threads=threads if threads is not None else _torch_threads(),
        versions={"python": platform.python_version(), **versions()},
    )


def versions() -> dict[str, str]:
    """Installed versions of what decides speed, from their metadata."""
    found = {}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """`NVIDIA H200`, or the processor's model and the cores this process may use."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device if ":" in device else 0)
    if device == "mps":
        return f"{cpu_model()} GPU"
    return f"{cpu_model()}, {_cores()} cores"


def cpu_model() -> str:
    """The processor's own name, without its marketing marks."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    name = match[1] if match else platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)| CPU|\s*@.*|\s+\d+-Core Processor", "", name).strip()


def nvidia_gpus() -> list[str]:
    """Names of the GPUs that NVML shows, without starting CUDA; empty where there is no NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _torch_threads() -> int | None:
    import sys

    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None
