"""The machine, the software and the code, as recorded with every measurement. Imports nothing heavy by itself."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_llmperf import cgroup, nvml, ranks
from pytest_llmperf.errors import UsageError
from pytest_llmperf.git import ask
from pytest_llmperf.model import Environment, Unknown
from pytest_llmperf.names import gpu_indices
from pytest_llmperf.targets import Served, Target

RECORDED = ("torch", "transformers", "accelerate", "numpy")
_SERVED = "served:"
_SERVED_HERE = "served:localhost"


def environment_of(target: Target, threads: int | None) -> Environment:
    """The environment in which a loaded target is measured; a served one has the server's versions, and no threads."""
    device = target.device.name
    own = threads if threads is not None else _torch_threads()
    software: Mapping[str, str] = {"python": platform.python_version(), **versions()}
    if isinstance(target, Served):
        own, software = None, target.versions
    together = {"ranks": str(ranks.world())} if ranks.world() > 1 else {}
    return Environment(
        device=device,
        device_name=device_name(device),
        hardware=hardware(device),
        dtype=target.dtype,
        threads=own,
        versions={**software, **together},
        machine=machine(device),
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
    """`NVIDIA H200`, or the processor's model and the cores this process may use; of a server what it runs on."""
    if device.startswith("cuda"):
        return ", ".join(dict.fromkeys(_cuda_names(device)))
    if device == _SERVED_HERE and (gpus := nvidia_gpus()):
        return ", ".join(dict.fromkeys(gpus))
    if device.startswith(_SERVED) and device != _SERVED_HERE:
        return device.removeprefix(_SERVED)
    if device == "mps":
        return f"{cpu_model()} GPU"
    count = cores()
    return f"{cpu_model()}, {_short(count)} core{'s' * (count != 1)}"


def hardware(device: str) -> str:
    """What makes figures comparable: `cuda-nvidia-h200-x1`, `cpu-amd-epyc-2c`, `mps-apple-m2`.

    Of a GPU with MIG the slice belongs to its name; power limits do not, and are recorded beside the figures.
    Several ranks are all that they run on together: `cuda-nvidia-h200-x2`, `cpu-amd-epyc-2c-x2`.
    A server on this machine may use all of its GPUs: `served-cuda-nvidia-h200-x8`, `served-cpu-amd-epyc-2c`. Of
    others nothing is known but what they were said to run on, or their name.
    """
    if device == _SERVED_HERE:
        gpus = nvidia_gpus()
        return f"served-{_cuda_key(gpus) if gpus else hardware('cpu')}"
    if device.startswith(_SERVED):
        return f"served-{_slug(device.removeprefix(_SERVED))}"
    if device.startswith("cuda"):
        return _cuda_key([name for names in ranks.gathered(_cuda_names(device)) for name in names])
    together = f"-x{ranks.world()}" if ranks.world() > 1 else ""
    if device == "mps":
        return f"mps-{_slug(cpu_model())}{together}"
    return f"cpu-{_slug(cpu_model())}-{_short(cores())}c{together}"


def machine(device: str) -> Mapping[str, str]:
    """What may change on the same hardware, and then its speed: power limits, and whether memory corrects errors."""
    if not device.startswith("cuda"):
        return {}
    with nvml.opened() as library:
        if isinstance(library, Unknown):
            return {}
        try:
            gpus = [nvml.Gpu(library, nvml.handle(library, index)) for index in gpu_indices(device)]
        except (library.NVMLError, AttributeError):  # an old torch knows no uuid
            return {}
        limits = [gpu.power_limit() for gpu in gpus]
        corrects = [gpu.ecc() for gpu in gpus]
    told = {
        "power limit": [f"{limit:.0f} W" for limit in limits if not isinstance(limit, Unknown)],
        "ECC": ["on" if on else "off" for on in corrects if not isinstance(on, Unknown)],
    }
    return {name: ", ".join(dict.fromkeys(each)) for name, each in told.items() if len(each) == len(gpus)}


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
    with nvml.opened() as library:
        if isinstance(library, Unknown):
            return []
        try:
            return [str(library.nvmlDeviceGetName(handle)) for handle in nvml.handles(library)]
        except library.NVMLError:
            return []


def cores() -> float:
    """Processor cores that this process may use: by its affinity, and by the quota of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(allowed, cgroup.quota())


@functools.cache
def commit(folder: Path, apart: Path) -> tuple[str, bool]:
    """The commit checked out around a folder, and whether tracked files differ from it; empty outside git.

    Args:
        apart: a folder whose files do not count as differing: the baselines, which a recording changes.
    """
    own = [f":(exclude){apart.relative_to(folder)}"] if folder in apart.parents else []
    try:
        sha = ask(folder, "rev-parse", "HEAD")
        changed = ask(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", *own)
    except UsageError:  # no git
        return "", False
    return sha, bool(sha and changed)


def _cuda_names(device: str) -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in gpu_indices(device)]


def _cuda_key(names: Sequence[str]) -> str:
    return "-".join(["cuda", *(f"{_slug(name)}-x{count}" for name, count in sorted(Counter(names).items()))])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "unknown"


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _torch_threads() -> int | None:
    import sys

    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None
