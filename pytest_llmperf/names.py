"""Names of devices, dtypes and servers, without importing torch."""

from __future__ import annotations

import ipaddress
from pathlib import PurePath

from pytest_llmperf.errors import UsageError, did_you_mean

_DEVICES = ("auto", "cpu", "cuda", "mps")
_OTHERS = ("xpu", "npu", "hpu", "mlu", "xla")
_DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
_SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16", "float": "float32"}


def device_name(device: object) -> str:
    """The device as given, if it has the form of one: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UsageError: naming the nearest device, or that it is one of those that nothing here has been tried on.
    """
    name = str(device)
    kind, _, index = name.partition(":")
    if kind in _DEVICES and (not index or (kind == "cuda" and index.isdecimal())) and not name.endswith(":"):
        return name
    if kind in _OTHERS:
        raise UsageError(
            f"device={device!r}: of GPUs CUDA's (ROCm's among them) and Apple's are measured in process; for others "
            f"wrap your own loop as stream(fn), or measure a server by endpoint(…)"
        )
    known = ("auto", "cpu", "cuda", "cuda:1", "mps")
    raise UsageError(f"device={device!r} is no device{did_you_mean(name, known)} (known: {', '.join(known)})")


def gpu_indices(device: str) -> list[int]:
    """Which of the CUDA devices that this process sees a device is: 0 and 1 of `cuda:0,1`, 0 of `cuda`."""
    return [int(index) for index in (device.partition(":")[2] or "0").split(",")]


def check_gpus(gpus: int, device: str) -> None:
    """Whether a device can be so many GPUs.

    Raises:
        UsageError: it is none.
    """
    if not device.startswith(("auto", "cuda")):
        raise UsageError(f"gpus={gpus}: device={device!r} is no CUDA device; leave out gpus= or say device='cuda'")


def dtype_name(dtype: object) -> str:
    """`bfloat16` of `"bf16"`, `"torch.bfloat16"` or `torch.bfloat16`.

    Raises:
        UsageError: naming the nearest dtype.
    """
    name = str(dtype).removeprefix("torch.")
    name = _SHORT_DTYPES.get(name, name)
    if name not in _DTYPES:
        raise UsageError(f"dtype={dtype!r} is no dtype{did_you_mean(name, _DTYPES)} (known: {', '.join(_DTYPES)})")
    return name


def host_name(host: str) -> str:
    """A host as it is named everywhere: `localhost` for every name of this machine, brackets around IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "localhost" if host == "localhost" or host.endswith(".localhost") else host
    if address.is_loopback or address.is_unspecified:
        return "localhost"
    return f"[{host}]" if address.version == 6 else host


def served_name(host: str, port: int | None, model: str | None) -> str:
    """What a served model is called: `endpoint:llm.example.org:8000/gpt2`.

    A port of this machine is a matter of chance and goes unsaid; a model that is a folder goes by its last name.

    Args:
        host: as `host_name` has it.
    """
    at = "" if port is None or host == "localhost" else f":{port}"
    path = model is not None and (PurePath(model).is_absolute() or model.startswith((".", "~")))
    last = "" if model is None else f"/{PurePath(model).name if path else model}"
    return f"endpoint:{host}{at}{last}"
